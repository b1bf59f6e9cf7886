"""Your own units and words become shards: what no stage of the pipeline made, a model can still read.

Units of another encoder, phone labels, units of a toy: whoever has them with the frames of their words writes a set of shards
here without audio and without tables.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.patches import aligned_patches
from pipeline.shards import json_bytes, npy_bytes, write_shard
from schemas.audio import SAMPLE_RATE
from schemas.cards import Card, fingerprint
from schemas.shards import SampleMeta, SegmentSpan, ShardEntry, ShardIndex, check_num_units

SAMPLES_PER_SHARD = 4000
"""Units alone are small, so a shard takes many passages; a set of 30,000 still has several shards to shuffle."""


@dataclass(frozen=True, kw_only=True)
class SpokenUnits:
    """One sample: what was said, in text and in units."""

    key: str
    """Unique in the set, of letters, digits, `-` and `_`."""
    text: str
    char_spans: Sequence[tuple[int, int]]
    """[start, end) in `text` of each word, in speaking order."""
    units: np.ndarray
    """uint16 [T]."""
    word_frames: Sequence[tuple[int, int]]
    """[start, end) of each word: ordered, disjoint, inside [0, T)."""


def write_own_units(
    folder: str | Path,
    samples: Iterable[SpokenUnits],
    *,
    num_units: int,
    hop: int,
    cards: Sequence[Card],
    language: str = "en",
    silence: str = "separate",
) -> ShardIndex:
    """Write samples as shards, the index last; equal samples give equal bytes.

    `hop` is in samples at 16 kHz. `cards` say what made the units (kind `unit_tokenizer` at least): scoring compares them with
    those of a task. A gap between words is a patch of its own (`separate`), or joins the word before it (`merged`).

    Raises:
        ValueError: there is no sample, or one contradicts itself (the message names its key), or there are too many units.
    """
    check_num_units(num_units)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, str] = {card.kind: card.card_id for card in cards}
    entries: list[ShardEntry] = []
    group: list[SpokenUnits] = []
    seen: set[str] = set()
    for sample in samples:
        _check(sample, num_units, seen)
        group.append(sample)
        if len(group) == SAMPLES_PER_SHARD:
            entries.append(_write(folder, len(entries), group, hop, names, language, silence))
            group = []
    if group:
        entries.append(_write(folder, len(entries), group, hop, names, language, silence))
    if not entries:
        raise ValueError(f"no samples for {folder}: a set of shards has at least one")
    totals = {
        name: sum(getattr(entry, name) for entry in entries)
        for name in ("samples", "frames", "words", "patches", "seconds", "bytes")
    }
    index = ShardIndex(
        kind="speech",
        fingerprint=fingerprint({"own_units": [entry.sha256 for entry in entries], "cards": sorted(names.values())}),
        num_units=num_units,
        hop=hop,
        cards={card.card_id: card for card in cards},
        shards=entries,
        totals=totals,
    )
    partial = folder / f"index.{os.getpid()}.part"
    partial.write_text(index.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(partial, folder / "index.json")
    return index


def _check(sample: SpokenUnits, num_units: int, seen: set[str]) -> None:
    frames = len(sample.units)
    edges = [0, *(edge for span in sample.word_frames for edge in span), frames]
    if not re.fullmatch(r"[\w-]+", sample.key):  # a tar's reader ends a key at its first dot
        raise ValueError(f"the key {sample.key!r} is not of letters, digits, - and _ alone")
    if sample.key in seen:
        raise ValueError(f"sample {sample.key!r} occurs twice; keys are unique")
    if sample.units.ndim != 1 or sample.units.dtype.kind not in "iu":
        raise ValueError(
            f"sample {sample.key!r}: units are {sample.units.dtype} {list(sample.units.shape)}; a list of whole numbers is wanted"
        )
    if frames == 0 or not 0 <= int(sample.units.min()) <= int(sample.units.max()) < num_units:
        raise ValueError(f"sample {sample.key!r} has no units, or some outside [0, {num_units})")
    places = [0, *(place for span in sample.char_spans for place in span), len(sample.text)]
    if any(a > b for a, b in pairwise(places)):
        raise ValueError(f"sample {sample.key!r}: spans of its words overlap, are out of order or leave its text")
    if len(sample.char_spans) != len(sample.word_frames):
        raise ValueError(
            f"sample {sample.key!r} has {len(sample.char_spans)} words in its text and "
            f"{len(sample.word_frames)} in its units"
        )
    if any(a > b for a, b in pairwise(edges)):
        raise ValueError(f"sample {sample.key!r}: word frames overlap, are out of order or leave its {frames} units")
    seen.add(sample.key)


def _write(
    folder: Path,
    number: int,
    group: Sequence[SpokenUnits],
    hop: int,
    cards: dict[str, str],
    language: str,
    silence: str,
) -> ShardEntry:
    built = [_sample(sample, hop, cards, language, silence) for sample in group]
    data = write_shard(members for members, _ in built)
    path = folder / f"own-{number:05d}.tar"
    path.write_bytes(data)
    frames = sum(len(sample.units) for sample in group)
    return ShardEntry(
        path=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        samples=len(group),
        frames=frames,
        words=sum(len(sample.word_frames) for sample in group),
        patches=sum(patches for _, patches in built),
        seconds=frames * hop / SAMPLE_RATE,
    )


def _sample(
    sample: SpokenUnits, hop: int, cards: dict[str, str], language: str, silence: str
) -> tuple[dict[str, bytes | str], int]:
    """The members of a WebDataset sample, and how many patches it has."""
    frames = len(sample.units)
    bounds, kind, _ = aligned_patches(list(sample.word_frames), frames, silence)
    span = SegmentSpan(segment_id=sample.key, start=0, end=frames * hop, frame_start=0, frame_end=frames)
    meta = SampleMeta(
        key=sample.key, recording_id=sample.key, uri=sample.key, segments=[span], language=language, text=sample.text,
        words=list(sample.char_spans), patch_kind=kind, num_frames=frames, hop=hop, cards=cards,
    )  # fmt: skip
    words = [(start, end, 0) for start, end in sample.word_frames]
    members: dict[str, bytes | str] = {
        "__key__": sample.key,
        "json": json_bytes(meta),
        "units.npy": npy_bytes(np.asarray(sample.units, dtype=np.uint16)),
        "words.npy": npy_bytes(np.asarray(words, dtype=np.int32).reshape(-1, 3)),
        "patch.npy": npy_bytes(np.asarray(bounds, dtype=np.int32)),
    }
    return members, len(kind)
