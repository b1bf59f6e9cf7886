"""One training step (forward, backward, AdamW) of LST on this CPU.

Against `transformers`' BLT port: same widths, depths, vocabulary and patch lengths, own-patch cross-attention as the port has it.
Against our plain baseline, whose blocks are LST's global part: the speed-up should follow from the operations saved.
Against the machine's own matrix products, measured in the same run.
Last, the study's models (1.3 M parameters) in fp32 on one thread: LST against plain over their FLOP ratio, in processor time.
What lies between the products weighs most in models this small. Documents there are of two kinds: one long turn of speech and one
of text, as in the study, and turns of 10 to 60 elements.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import BltConfig, BltForCausalLM

from benchmarks.harness import Measurement, main
from model.cost.flops import count_batch, training_flops
from model.cost.presets import plain_like
from model.cost.synthetic import synthetic_batch
from model.data.document import Document
from model.data.packing import PackingConfig, pack, whole
from model.data.patching import StaticConfig, assign_patches
from model.network.batch import Batch, LossSums
from model.network.config import ModelConfig
from model.network.lst import build_model
from model.network.vocabulary import BOS, EOS, SPEECH_MARK, TEXT_MARK, Vocabulary
from model.training.memory import steady_memory
from recipes.study.design.settings import load_study
from schemas.config import load_config

ELEMENTS, PATCH = 2048, 4
UNITS_PER_SECOND = 25
VOCABULARY = Vocabulary(num_text=7, num_units=500)
ROUNDS, GEMM_SIZE = 5, 2048
STUDY = "configs/experiments/study-ladder.yaml"
STUDY_VOCABULARY = Vocabulary(num_text=1024, num_units=100)
STUDY_DOCUMENTS, STUDY_UNITS, STUDY_ROUNDS, STUDY_GOAL = 4, 307, 12, 0.85


def document_of(ids: np.ndarray, vocabulary: Vocabulary, name: str) -> Document:
    """A document whose patches may begin anywhere in its speech."""
    is_unit = ids >= vocabulary.unit_offset
    return Document(
        ids=ids,
        is_unit=is_unit,
        patch_start=is_unit,
        patch_kind=np.where(is_unit, 0, -1).astype(np.int8),
        token_start=np.zeros(len(ids), dtype=bool),
        target=np.arange(len(ids)) > 0,
        sample_id=name,
    )


def packed(documents: list[Document]) -> Batch:
    """One micro-batch of the documents in static patches, whose latents fill their budget: none is padding."""
    rng, policy = np.random.default_rng(0), StaticConfig(policy="static", size=PATCH)
    pieces = [whole(document, *assign_patches(policy, document, 0.0, rng)) for document in documents]
    return pack(pieces, PackingConfig(elements=ELEMENTS, latents=sum(piece.num_latents for piece in pieces)))


def speech_batch(seed: int = 0) -> Batch:
    """One document of speech that fills the element budget, in static patches."""
    units = np.random.default_rng(seed).integers(VOCABULARY.unit_offset, VOCABULARY.size, ELEMENTS - 2)
    return packed([document_of(np.concatenate([[BOS, SPEECH_MARK], units]).astype(np.int32), VOCABULARY, "benchmark")])


def long_turns() -> Batch:
    """STUDY_DOCUMENTS documents that fill the micro-batch: a turn of STUDY_UNITS units, then one of text."""
    words, text = STUDY_VOCABULARY, ELEMENTS // STUDY_DOCUMENTS - STUDY_UNITS - 4
    documents = []
    for seed in range(STUDY_DOCUMENTS):
        rng = np.random.default_rng(seed)
        units = rng.integers(words.unit_offset, words.size, STUDY_UNITS)
        tokens = rng.integers(words.text_offset, words.unit_offset, text)
        ids = np.concatenate([[BOS, SPEECH_MARK], units, [TEXT_MARK], tokens, [EOS]])
        documents.append(document_of(ids.astype(np.int32), words, f"long turn {seed}"))
    return packed(documents)


def short_turns() -> Batch:
    """Documents of turns of 10 to 60 elements, the same share of them units."""
    share = STUDY_UNITS * STUDY_DOCUMENTS / ELEMENTS
    loose = synthetic_batch(STUDY_VOCABULARY, ELEMENTS, ELEMENTS, speech=share)
    return dataclasses.replace(loose, num_latents=int(loose.latent_id_N.max()) + 1)


def lst_config() -> ModelConfig:
    """The 20m preset with one head over the joint vocabulary, as the port has."""
    return load_config(ModelConfig, "configs/model/20m.yaml", ["head=joint"]).with_vocabulary(VOCABULARY)


def plain_config(lst: ModelConfig) -> ModelConfig:
    """The baseline whose transformer is LST's global part."""
    return ModelConfig(kind="plain", global_transformer=lst.global_transformer, head="joint", vocabulary=lst.vocabulary)


def blt_port(lst: ModelConfig) -> BltForCausalLM:
    """The port at LST's sizes, without its byte-hash embeddings and its own patcher."""
    local = lst.patch_parts
    parts = {"encoder": local.encoder, "decoder": local.decoder, "global": lst.global_transformer}
    shapes = {
        f"{name}_config": {
            "hidden_size": part.dim,
            "num_attention_heads": part.num_heads,
            "num_hidden_layers": part.num_layers,
            "intermediate_size": part.ffn_dim,
            "vocab_size": VOCABULARY.size,
            "cross_attn_k": lst.vectors_per_patch,
            "hidden_size_global": lst.global_transformer.dim,
            "max_position_embeddings": ELEMENTS,
        }
        for name, part in parts.items()
    }
    config = BltConfig(
        vocab_size=VOCABULARY.size,
        patch_in_forward=False,
        cross_attn_k=lst.vectors_per_patch,
        encoder_hash_byte_group_nb_functions=0,
        local_attention_window_len=local.encoder.window,
        attn_implementation="sdpa",
        **shapes,
    )
    return BltForCausalLM(config)


def port_patch_lengths(batch: Batch) -> torch.Tensor:
    """[1, patches]: the batch's patches plus the element after the last, as the port wants them."""
    lengths = torch.bincount(batch.latent_id_N)
    lengths[-1] += 1
    return lengths[None]


def training_step(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Forward, backward and AdamW, alike for every model here."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        loss().backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def our_step(config: ModelConfig, batch: Batch, dtype: torch.dtype) -> Callable[[], None]:
    """A training step of one of our models."""
    model = build_model(config, seed=0).to(dtype)

    def loss() -> torch.Tensor:
        sums: LossSums = model(batch)
        return (sums.nll_text + sums.nll_unit) / (sums.num_text + sums.num_unit)

    return training_step(model, loss)


def port_step(config: ModelConfig, batch: Batch, dtype: torch.dtype) -> Callable[[], None]:
    """A training step of the port."""
    model = blt_port(config).to(dtype).train()
    ids, lengths = batch.ids_N[None], port_patch_lengths(batch)

    def loss() -> torch.Tensor:
        result: torch.Tensor = model(input_ids=ids, patch_lengths=lengths, labels=ids, use_cache=False).loss
        return result

    return training_step(model, loss)


def matrix_product(dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """A square product of GEMM_SIZE."""
    left, right = (torch.randn(GEMM_SIZE, GEMM_SIZE).to(dtype) for _ in range(2))

    def product() -> torch.Tensor:
        return torch.mm(left, right)

    return product


def best_seconds(
    calls: dict[str, Callable[[], object]], rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The best of `rounds` for each call, taken in turns, so that what else the machine does falls on all alike."""
    for call in calls.values():
        call()
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            call()
            best[name] = min(best[name], clock() - start)
    return best


def run() -> list[Measurement]:
    """All rows, fp32 first."""
    batch, lst = speech_batch(), lst_config()
    plain = plain_config(lst)
    flops, plain_flops = (training_flops(build_model(config, 0), count_batch(batch, config)) for config in (lst, plain))
    audio = ELEMENTS / UNITS_PER_SECOND
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        name, full = str(dtype).removeprefix("torch."), dtype == torch.float32
        seconds = best_seconds(
            {
                "lst": our_step(lst, batch, dtype),
                "port": port_step(lst, batch, dtype),
                "plain": our_step(plain, batch, dtype),
                "gemm": matrix_product(dtype),
            }
        )
        rate = 2 * GEMM_SIZE**3 / seconds["gemm"]
        ours, port, baseline = seconds["lst"], seconds["port"], seconds["plain"]
        share, plain_share = flops / ours / rate, plain_flops / baseline / rate
        ratio = (baseline / ours) / (plain_flops / flops)
        rows += [
            _row(f"step, {name}", ours, "s", "BLT port", port),
            _row(f"times faster than the port, {name}", port / ours, "", goal=">= 1.5", holds=port / ours >= 1.5),
            _row(f"speech, {name}", audio / ours, "s/s", "plain baseline", audio / baseline),
            _row(f"FLOP ratio plain : LST, {name}", plain_flops / flops, ""),
            _row(
                f"speed-up over FLOP ratio, {name}", ratio, "",
                goal=">= 0.9" if full else "", holds=ratio >= 0.9 if full else None,
            ),
            _row(
                f"share of GEMM rate, {name}", share, f"of {rate / 1e9:.0f} GFLOP/s", "plain baseline", plain_share,
                ">= 0.65" if full else "", share >= 0.65 if full else None,
            ),
        ]  # fmt: skip
    return rows + study_rows()


def study_rows() -> list[Measurement]:
    """The study's LST and its baseline on either kind of documents."""
    torch.set_num_threads(1)
    steady_memory()  # as in training
    model = load_study(STUDY, []).network.with_vocabulary(STUDY_VOCABULARY)
    models = {"lst": model, "plain": plain_like(model)}
    rows = []
    for turns, batch in {"long turns": long_turns(), "short turns": short_turns()}.items():
        flops = {
            name: training_flops(build_model(config, 0), count_batch(batch, config)) for name, config in models.items()
        }
        steps = {name: our_step(config, batch, torch.float32) for name, config in models.items()}
        seconds = best_seconds({**steps, "gemm": matrix_product(torch.float32)}, STUDY_ROUNDS, time.process_time)
        rate = 2 * GEMM_SIZE**3 / seconds["gemm"]
        less, wanted = flops["plain"] / flops["lst"], turns == "long turns"
        ratio = seconds["plain"] / seconds["lst"] / less
        share, plain_share = (flops[name] / seconds[name] / rate for name in ("lst", "plain"))
        rows += [
            _row(f"the study's step, {turns}", seconds["lst"], "s", "plain baseline", seconds["plain"]),
            _row(f"FLOP ratio plain : LST, {turns}", less, ""),
            _row(
                f"speed-up over FLOP ratio, {turns}", ratio, "",
                goal=f">= {STUDY_GOAL}" if wanted else "", holds=ratio >= STUDY_GOAL if wanted else None,
            ),
            _row(f"share of GEMM rate, {turns}", share, f"of {rate / 1e9:.0f} GFLOP/s", "plain baseline", plain_share),
        ]  # fmt: skip
    return rows


def _row(
    name: str, value: float, unit: str, rival: str = "", rival_value: float | None = None, goal: str = "",
    holds: bool | None = None,
) -> Measurement:  # fmt: skip
    return Measurement(name=name, value=value, unit=unit, rival=rival, rival_value=rival_value, goal=goal, holds=holds)


if __name__ == "__main__":
    main(run, __doc__)
