"""The shard format: the only thing that crosses from the pipeline to the model.

A shard is a tar file of WebDataset samples; a sample is one passage: consecutive segments of a recording, up to ~120 s.

    <key>.json       SampleMeta
    <key>.units.npy  uint16 [T]      units, one per hop; absent in text-only samples
    <key>.words.npy  int32  [W, 3]   frame start, frame end, timing flag (TIMING_CODES)
    <key>.scores.npy float16 [W]     optional: the aligner's score of each word, in [0, 1]; larger is better
    <key>.patch.npy  int32  [P + 1]  word-aligned patch bounds, tiling [0, T) exactly
    <key>.chars.npy  int32  [C]      optional: frame of each character of `text`, -1 where unknown
    <key>.flac                       optional: the passage's audio, 16 kHz mono
    <key>.tokens.npy uint16|32 [N]   optional, text-only samples: tokens of the tokenizer whose card the index lists

Words are ordered, do not overlap, and each has at least one frame wherever T >= W.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np
from pydantic import SerializerFunctionWrapHandler, model_serializer

from schemas.cards import Card
from schemas.config import ConfigError, StrictModel

SHARD_FORMAT = 1
MOST_UNITS = 1 << 16
"""What uint16 holds."""
TIMING_CODES = {"aligned": 0, "star": 1, "interpolated": 2, "doubtful": 3}


def check_num_units(num_units: int) -> None:
    """Raises ConfigError where a shard cannot hold so many units."""
    if num_units > MOST_UNITS:
        raise ConfigError(f"{num_units} units do not fit the uint16 of a shard: at most {MOST_UNITS:,}")


def channel_in(segment_id: str, recording_id: str) -> int | None:
    """The channel that a segment is of, where those of its recording were cut apart: `schemas.tables.segment_id` names it."""
    match = re.match(r"-c(\d+)-", segment_id.removeprefix(recording_id))
    return int(match.group(1)) if match else None


class SegmentSpan(StrictModel):
    """A segment of the passage: where it lies in the recording (16 kHz samples) and in the passage (frames)."""

    segment_id: str
    start: int
    end: int
    frame_start: int
    frame_end: int
    language: str | None = None
    """Where the segments of the passage are in several languages; else the passage's."""
    speaker: str | None = None
    """As the corpus names them, where it does."""


class SampleMeta(StrictModel):
    """The `.json` member of a sample."""

    format: int = SHARD_FORMAT
    key: str
    recording_id: str
    uri: str
    segments: list[SegmentSpan]
    language: str
    """Of all segments; `mul` (ISO 639-2) where they are in several, and each segment then has its own."""
    text: str
    """The transcripts of the segments, joined by a space."""
    words: list[tuple[int, int]]
    """[char_start, char_end) into `text` of each word; as many as rows in words.npy, in speaking order."""
    patch_kind: list[int]
    """Per patch: 0 word, 1 silence, 2 filler."""
    num_frames: int
    hop: int
    """Samples at 16 kHz per frame."""
    cards: dict[str, str]
    """Kind -> card id, as listed in the index."""
    audio_gain: float | None = None
    """What the samples in the `.flac` member were multiplied with, where the recording's floats exceed full scale."""


class ShardEntry(StrictModel):
    """A shard as the index lists it."""

    path: str
    """Relative to the index."""
    sha256: str
    bytes: int
    samples: int
    frames: int
    words: int
    patches: int
    seconds: float


class IndexPart(StrictModel):
    """A run of the entries of a large index, in a file of its own: a JSON list of ShardEntry."""

    path: str
    """Relative to the index."""
    sha256: str
    shards: int


class ShardIndex(StrictModel):
    """`index.json`: written last, so its presence means that the set is complete. The index is the dataset.

    That of a large set lists `parts` instead of `shards`; `schemas.shard_reader.whole_index` gives it as if it were in one piece.
    """

    format: int = SHARD_FORMAT
    kind: Literal["speech", "text"]
    fingerprint: str
    """How the set was made: of the shards stage and all that it stands on. What is in it, the shards' hashes tell."""
    num_units: int
    """Size of the unit vocabulary: units are in [0, num_units). 0 in a text-only set."""
    hop: int
    sample_rate: int = 16_000
    cards: dict[str, Card]
    """Card id -> card."""
    shards: list[ShardEntry]
    totals: dict[str, Any]
    """Sums over the shards: samples, frames, words, patches, seconds, bytes."""
    parts: list[IndexPart] = []
    """Of a large set, in order; not written where there are none."""

    @property
    def num_shards(self) -> int:
        """How many shards the set has."""
        return len(self.shards) + sum(part.shards for part in self.parts)

    @model_serializer(mode="wrap")
    def _without_empty_parts(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = serialise(self)
        if not self.parts:
            document.pop("parts", None)
        return document


def on_the_grid(meta: SampleMeta, samples: np.ndarray) -> np.ndarray:
    """The passage's audio, segments end to end, without what each has beyond its last whole frame: [num_frames * hop]."""
    pieces, position = [], 0
    for span in meta.segments:
        pieces.append(samples[position : position + (span.frame_end - span.frame_start) * meta.hop])
        position += span.end - span.start
    return np.concatenate(pieces)
