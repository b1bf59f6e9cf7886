"""slamkit's feature rows (`features.jsonl`): units without repeats, how often each was repeated, and the words' times.

As its `extract_features` writes them, with the fields of its metadata files (`text`, `aligned_text`) in the same row, so that
`prepare_tokens` makes pure or interleaved documents of them (`tokeniser.requires_meta=false`). Times are seconds from the
first unit, and a word begins with the space before it, as Whisper writes words. A row is one segment.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from jobs.exports.spoken import SpokenSegment, samples_of_shard, segments_of_sample, write_whole
from model.data.shards import ShardSet
from schemas.audio import SAMPLE_RATE


def export(shards: ShardSet, out: Path) -> str:
    """Write `out/features.jsonl`; returns a sentence about it."""
    lines = [
        json.dumps(row(segment), ensure_ascii=False) + "\n"
        for shard in range(len(shards.counts))
        for sample in samples_of_shard(shards, shard)
        for segment in segments_of_sample(sample)
    ]
    write_whole(out / "features.jsonl", "".join(lines))
    return f"{len(lines)} rows in features.jsonl"


def row(segment: SpokenSegment) -> dict[str, Any]:
    """One segment as slamkit reads it."""
    runs = [(unit, len(list(group))) for unit, group in groupby(segment.units.tolist())]
    step = segment.hop / SAMPLE_RATE
    return {
        "units": [unit for unit, _ in runs],
        "duration": [count for _, count in runs],
        "file_name": segment.name,
        "text": segment.text,
        "aligned_text": [
            [f" {word.text}", round(word.start * step, 4), round(word.end * step, 4)] for word in segment.words
        ],
    }
