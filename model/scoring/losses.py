"""Where the loss of speech lies, and what context is worth: tables over whole held-out utterances.

Context value: the same units predicted with less and less before them. Each WINDOW of an utterance is predicted from the last c
seconds before it alone; what c seconds more are worth is the difference in bits per second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from model.data.compose import Composer, Utterance, utterance_of
from model.data.document import Document
from model.data.draws import generator
from model.data.packing import Piece, whole
from model.data.patching import BpeAlignedConfig, assign_patches, choose_policy
from model.data.shards import ShardSet
from model.data.sources import TrainingData
from model.inference.trained import Trained
from model.scoring.scorer import Precision, Scorer, make_scorer
from schemas.config import ConfigError

CONTEXTS: tuple[float | None, ...] = (0.0, 2.5, 5.0, 10.0, None)
"""Seconds before the window; None: all."""
WINDOW = 1.0
"""Seconds that are predicted at a time. A unit within it also sees the window's own units before it."""
LAST_FRAME = 8
"""Frames since a word began, and places in a patch, beyond which rows are joined."""
KINDS = {0: "word", 1: "silence", 2: "filler"}
SEED = 20251110
"""Any number: it is fixed, so that all checkpoints are measured on the same windows."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Units of one row of a table."""

    bits_per_second: float
    share: float
    """Of all units."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The tables, over some utterances."""

    utterances: int
    seconds: float
    bits_per_second: float
    context: dict[str, float]
    """Seconds of context ("all": everything before) -> bits per second."""
    by_place: dict[str, Cell]
    """Place in the patch, from 0; empty for a plain transformer."""
    by_frame: dict[str, Cell]
    """Units since the word began, from 0; units of words alone."""
    by_kind: dict[str, Cell]

    @property
    def context_value(self) -> dict[str, float]:
        """Bits per second that each context gains over the one before it."""
        names = list(self.context)
        return {b: self.context[a] - self.context[b] for a, b in pairwise(names)}


def measure_losses(trained: Trained, utterances: int, precision: Precision = "fp32") -> Losses:
    """The tables of a trained model on held-out speech of its own data.

    Raises:
        ConfigError: it was trained on no speech, with a unit BPE (whose tokens span seconds unevenly) or with patches of text
            tokens, or nothing is held out.
    """
    config = trained.config
    if config.data.unit_bpe:
        raise ConfigError("--losses wants single units, and this model was trained with a unit BPE")
    if isinstance(choose_policy(config.patches, 1.0, generator(SEED, "patches")), BpeAlignedConfig):
        raise ConfigError(
            "--losses predicts windows of speech whose text is not known, and this model's patches begin where text tokens do"
        )
    if not config.data.held_out:
        raise ConfigError("--losses wants held-out speech: train with data.held_out above 0")
    spoken = held_out_utterances(TrainingData(config.data), utterances)
    scorer = make_scorer(trained, "static:1" if trained.module.config.kind == "plain" else "auto", precision)
    return tables(scorer, trained, spoken)


def held_out_utterances(corpus: TrainingData, count: int) -> list[Utterance]:
    """The first `count` utterances that no run trains on.

    Raises:
        ConfigError: the data has no speech.
    """
    for source in corpus.sources(SEED, "validation"):
        if isinstance(source.samples, ShardSet) and source.config.kind != "text" and source.samples.index.num_units:
            samples = [source.sample(number) for number in range(min(count, source.order.total))]
            return [utterance_of(sample) for sample in samples if not isinstance(sample, str) and len(sample.units)]
    raise ConfigError("--losses wants speech, and this model was trained on none")


def tables(scorer: Scorer, trained: Trained, spoken: Sequence[Utterance]) -> Losses:
    """The tables of `measure_losses` over utterances that are in memory."""
    seconds_per_unit = scorer.seconds_per_unit
    documents = [scorer.composer.speech(utterance) for utterance in spoken]
    patched = [_patches(trained, document) for document in documents]
    nll = _unit_nll(scorer, documents, patched)
    place = np.concatenate([_place(document, latent) for document, (latent, _) in zip(documents, patched, strict=True)])
    frame = np.concatenate([_frame(document) for document in documents])
    kind = np.concatenate([document.patch_kind[document.is_unit] for document in documents])
    count, total = len(nll), float(nll.sum()) / math.log(2)

    def cells(labels: np.ndarray, names: dict[int, str]) -> dict[str, Cell]:
        found = {}
        for value, name in names.items():
            chosen = labels == value
            if chosen.any():
                bits = float(nll[chosen].mean()) / math.log(2) / seconds_per_unit
                found[name] = Cell(bits_per_second=bits, share=float(chosen.mean()))
        return found

    numbered = {n: str(n) if n < LAST_FRAME else f"{n}+" for n in range(LAST_FRAME + 1)}
    plain = scorer.module.config.kind == "plain"
    return Losses(
        utterances=len(spoken),
        seconds=count * seconds_per_unit,
        bits_per_second=total / (count * seconds_per_unit),
        context={_name(seconds): _with_context(scorer, trained, spoken, seconds) for seconds in CONTEXTS},
        by_place={} if plain else cells(np.minimum(place, LAST_FRAME), numbered),
        by_frame=cells(np.where(kind == 0, np.minimum(frame, LAST_FRAME), -1), numbered),
        by_kind=cells(kind, KINDS),
    )


def _name(seconds: float | None) -> str:
    return "all" if seconds is None else f"{seconds:g} s"


def _patches(trained: Trained, document: Document) -> tuple[np.ndarray, np.ndarray]:
    """Patched as at the end of training."""
    return assign_patches(trained.config.patches, document, 1.0, generator(SEED, "patches"))


def _unit_nll(
    scorer: Scorer, documents: Sequence[Document], patched: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Nats of every unit of the documents, in their order."""
    found: list[np.ndarray] = []
    waiting: list[tuple[Document, Piece]] = []
    size = 0
    for document, patches in zip(documents, patched, strict=True):
        if waiting and size + len(document.ids) > scorer.max_elements:
            found += _of_batch(scorer, waiting)
            waiting, size = [], 0
        waiting.append((document, whole(document, *patches)))
        size += len(document.ids)
    return np.concatenate([*found, *_of_batch(scorer, waiting)])


def _of_batch(scorer: Scorer, batch: Sequence[tuple[Document, Piece]]) -> list[np.ndarray]:
    rows = scorer.rows([piece for _, piece in batch])
    return [np.asarray(row.nll)[document.is_unit[1:]] for (document, _), row in zip(batch, rows, strict=True)]


def _place(document: Document, latent: np.ndarray) -> np.ndarray:
    """Place of each unit in its patch."""
    index = np.arange(len(latent))
    starts = np.concatenate([[True], latent[1:] != latent[:-1]])
    since = index - np.maximum.accumulate(np.where(starts, index, 0))
    return np.asarray(since[document.is_unit])


def _frame(document: Document) -> np.ndarray:
    """Units since the aligned patch (a word, say) of each unit began."""
    index = np.arange(len(document.ids))
    starts = document.patch_start | ~document.is_unit
    since = index - np.maximum.accumulate(np.where(starts, index, 0))
    return np.asarray(since[document.is_unit])


def _with_context(scorer: Scorer, trained: Trained, spoken: Sequence[Utterance], seconds: float | None) -> float:
    """Bits per second where each window is predicted from so much before it."""
    window = max(1, round(WINDOW / scorer.seconds_per_unit))
    reach = None if seconds is None else round(seconds / scorer.seconds_per_unit)
    documents, fresh = [], []
    for utterance in spoken:
        for begin in range(0, len(utterance.units), window):
            first = 0 if reach is None else max(0, begin - reach)
            stop = min(begin + window, len(utterance.units))
            documents.append(_piece(scorer.composer, utterance, first, stop))
            fresh.append(np.arange(first, stop) >= begin)
    nll = _unit_nll(scorer, documents, [_patches(trained, document) for document in documents])
    chosen = np.concatenate(fresh)
    return float(nll[chosen].mean()) / math.log(2) / scorer.seconds_per_unit


def _piece(composer: Composer, utterance: Utterance, first: int, stop: int) -> Document:
    """The speech of frames [first, stop) as a document of its own."""
    part = replace(
        utterance, text="", char_spans=[], words=np.zeros((0, 2), dtype=np.int32), units=utterance.units[first:stop],
        patch_start=utterance.patch_start[first:stop], patch_kind=utterance.patch_kind[first:stop], char_frames=None,
    )  # fmt: skip
    return composer.speech(part)


def describe(losses: Losses) -> str:
    """Bits per second, then a table per question, as `lst score --losses` prints them."""
    lines = [
        f"{losses.utterances} held-out utterances, {losses.seconds:.0f} s: {losses.bits_per_second:.2f} bits/s of speech",
        "",
        f"{'context':>10} {'bits/s':>8} {'gained':>8}",
    ]
    gains = {**dict.fromkeys(losses.context, None), **losses.context_value}
    for name, bits in losses.context.items():
        gain = gains[name]
        lines.append(f"{name:>10} {bits:8.2f} {'' if gain is None else f'{gain:8.2f}'}".rstrip())
    for title, rows in (
        ("place in patch", losses.by_place), ("frame of word", losses.by_frame), ("kind", losses.by_kind),
    ):  # fmt: skip
        if rows:
            lines += ["", f"{title:>14} {'bits/s':>8} {'of units':>9}"]
            lines += [f"{name:>14} {cell.bits_per_second:8.2f} {cell.share:9.1%}" for name, cell in rows.items()]
    return "\n".join(lines)


def losses_of(trained: Trained, utterances: int) -> dict[str, Any]:
    """The tables as JSON values, for records."""
    found = measure_losses(trained, utterances)
    rows = {
        name: {label: [cell.bits_per_second, cell.share] for label, cell in getattr(found, name).items()}
        for name in ("by_place", "by_frame", "by_kind")
    }
    return {"utterances": found.utterances, "seconds": found.seconds, "context": found.context, **rows}
