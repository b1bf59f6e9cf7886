"""One training step of the study's models (1.3 M parameters) on one thread: LST against the plain baseline over their FLOP ratio.

Both read the same micro-batch of about 2,048 elements in fp32, in turns, in processor seconds, so that other work on the machine
falls on neither. What lies between the products weighs most in models this small. Documents are of two kinds: one long turn of
speech and one of text, as in the study, and turns of 10 to 60 elements, whose patches of text are many.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.harness import Measurement, main
from benchmarks.model_step import matrix_product, our_step
from model.cost.flops import count_batch, training_flops
from model.cost.presets import plain_like
from model.cost.synthetic import synthetic_batch
from model.data.document import Document
from model.data.packing import PackingConfig, Piece, pack, whole
from model.data.patching import StaticConfig, assign_patches
from model.network.batch import Batch
from model.network.config import ModelConfig
from model.network.lst import build_model
from model.network.vocabulary import BOS, EOS, SPEECH_MARK, TEXT_MARK, Vocabulary
from model.training.memory import steady_memory
from recipes.study.design.settings import load_study

STUDY = "configs/experiments/study-ladder.yaml"
ELEMENTS, DOCUMENTS, UNITS, PATCH = 2048, 4, 307, 4
VOCABULARY = Vocabulary(num_text=1024, num_units=100)
ROUNDS = 12
GOAL = 0.85


@dataclass(frozen=True)
class Timed:
    """Processor seconds of a step of either model, and its operations."""

    lst: float
    plain: float
    lst_flops: int
    plain_flops: int

    @property
    def over_flop_ratio(self) -> float:
        """1 where a step of LST takes as much less time than one of plain as it has fewer operations."""
        return (self.plain / self.lst) / (self.plain_flops / self.lst_flops)


def long_turns() -> Batch:
    """DOCUMENTS documents that fill the micro-batch: a turn of UNITS units, then one of text."""
    rng, policy = np.random.default_rng(0), StaticConfig(policy="static", size=PATCH)
    pieces = [
        whole(document, *assign_patches(policy, document, 0.0, rng)) for document in map(_document, range(DOCUMENTS))
    ]
    return packed(pieces)


def packed(pieces: list[Piece]) -> Batch:
    """One micro-batch whose latents fill their budget, as the study's do: none is padding."""
    return pack(pieces, PackingConfig(elements=ELEMENTS, latents=sum(piece.num_latents for piece in pieces)))


def short_turns() -> Batch:
    """Documents of turns of 10 to 60 elements, the same share of them units."""
    loose = synthetic_batch(VOCABULARY, ELEMENTS, ELEMENTS, speech=UNITS * DOCUMENTS / ELEMENTS)
    return dataclasses.replace(loose, num_latents=int(loose.latent_id_N.max()) + 1)


def _document(seed: int) -> Document:
    rng, text = np.random.default_rng(seed), ELEMENTS // DOCUMENTS - UNITS - 4
    units = rng.integers(VOCABULARY.unit_offset, VOCABULARY.size, UNITS)
    tokens = rng.integers(VOCABULARY.text_offset, VOCABULARY.unit_offset, text)
    ids = np.concatenate([[BOS, SPEECH_MARK], units, [TEXT_MARK], tokens, [EOS]]).astype(np.int32)
    is_unit = ids >= VOCABULARY.unit_offset
    opens = is_unit & ~np.concatenate([[False], is_unit[:-1]])
    return Document(
        ids=ids,
        is_unit=is_unit,
        patch_start=opens,
        patch_kind=np.where(is_unit, 0, -1).astype(np.int8),
        token_start=opens,
        target=np.arange(len(ids)) > 0,
        sample_id=f"long turn {seed}",
    )


def least_seconds(calls: list[Callable[[], object]]) -> list[float]:
    """The least processor seconds of each call over ROUNDS, in turns."""
    best = [float("inf")] * len(calls)
    for call in calls:
        call()
    for _ in range(ROUNDS):
        for index, call in enumerate(calls):
            start = time.process_time()
            call()
            best[index] = min(best[index], time.process_time() - start)
    return best


def compare(lst: ModelConfig, batch: Batch) -> Timed:
    """A step of `lst` and of its baseline on `batch`."""
    plain = plain_like(lst)
    ours, baseline = least_seconds([our_step(lst, batch, torch.float32), our_step(plain, batch, torch.float32)])
    flops, plain_flops = (training_flops(build_model(config, 0), count_batch(batch, config)) for config in (lst, plain))
    return Timed(ours, baseline, flops, plain_flops)


def run() -> list[Measurement]:
    """Rows of both kinds of documents, and the machine's products."""
    torch.set_num_threads(1)
    steady_memory()  # as in training
    lst = load_study(STUDY, []).model.with_vocabulary(VOCABULARY)
    product = matrix_product(torch.float32)
    (gemm,) = least_seconds([product])
    rate = 2 * product().shape[0] ** 3 / gemm
    batches = {"long turns": long_turns(), "short turns": short_turns()}
    rows = []
    for name, batch in batches.items():
        timed = compare(lst, batch)
        goal, ratio = name == "long turns", timed.over_flop_ratio
        shares = [
            flops / seconds / rate
            for flops, seconds in ((timed.lst_flops, timed.lst), (timed.plain_flops, timed.plain))
        ]
        rows += [
            Measurement(name=f"step, {name}", value=timed.lst, unit="s", rival="plain baseline", rival_value=timed.plain),
            Measurement(name=f"FLOP ratio plain : LST, {name}", value=timed.plain_flops / timed.lst_flops, unit=""),
            Measurement(
                name=f"speed-up over FLOP ratio, {name}", value=ratio, unit="", goal=f">= {GOAL}" if goal else "",
                holds=ratio >= GOAL if goal else None,
            ),
            Measurement(
                name=f"share of GEMM rate, {name}", value=shares[0], unit=f"of {rate / 1e9:.0f} GFLOP/s",
                rival="plain baseline", rival_value=shares[1],
            ),
        ]  # fmt: skip
    return rows


if __name__ == "__main__":
    main(run, __doc__)
