"""The JSONL of the official LST code: what its loader reads as `NAME.chunk.00.on_the_fly` (speech) and `.jsonl` (text).

A speech row is `{"file_id": ..., "interleaved": "<LST MODE SEP>TEXT word <LST MODE SEP>HUBERT 7 7 49 <LST MODE SEP>..."}`: every
word with its units, and silence as the word `[SIL]`, so that the rows hold every unit. A row is one segment. It must have no
field `text`, which that loader would prefer.
"""

from __future__ import annotations

import glob
import json
from pathlib import Path

from jobs.exports.spoken import (
    SpokenSegment,
    one_word,
    refuse_others,
    samples_of_shard,
    segments_of_sample,
    write_whole,
)
from model.data.shards import ShardSet

SEPARATOR, SILENCE = "<LST MODE SEP>", "[SIL]"


def export(shards: ShardSet, out: Path) -> str:
    """Write one chunk per shard into `out`, named after the folder; returns a sentence about it.

    Raises:
        ConfigError: there are chunks of another export.
    """
    rows, total = 0, len(shards.counts)
    speech = shards.index.kind == "speech"
    name, suffix = out.resolve().name, "on_the_fly" if speech else "jsonl"
    chunks = [f"{name}.chunk.{shard:02d}.{suffix}" for shard in range(total)]
    refuse_others(out, f"{glob.escape(name)}.chunk.*.{suffix}", chunks)
    for shard, chunk in enumerate(chunks):
        lines = []
        for sample in samples_of_shard(shards, shard):
            if speech:
                documents = [
                    {"file_id": segment.name, "interleaved": interleaved(segment)}
                    for segment in segments_of_sample(sample)
                ]
            else:
                documents = [{"sample_id": sample.meta.key, "text": sample.meta.text}]
            lines += [json.dumps(document, ensure_ascii=False) + "\n" for document in documents]
        write_whole(out / chunk, "".join(lines))
        rows += len(lines)
    return f"{rows} rows in {total} chunks"


def interleaved(segment: SpokenSegment) -> str:
    """Words and silences in turn, each followed by its units; a word without a frame is followed by none."""
    pieces: list[str] = []

    def add(word: str, start: int, end: int) -> None:
        units = " ".join(str(unit) for unit in segment.units[start:end].tolist())
        pieces.append(f"{SEPARATOR}TEXT {word} {SEPARATOR}HUBERT {units}")

    position = 0
    for word in segment.words:
        if word.start > position:
            add(SILENCE, position, word.start)
        add(one_word(word.text), word.start, word.end)
        position = word.end
    if position < len(segment.units):
        add(SILENCE, position, len(segment.units))
    return " ".join(pieces)
