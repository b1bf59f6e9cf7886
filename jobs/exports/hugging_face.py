"""Hugging Face `datasets`: Parquet files that `load_dataset("parquet", ...)` or a hub repository opens with the right types.

One row per sample of the shards (a passage), with its units, words, patches and segments; audio where the shards carry it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.exports.spoken import TIMINGS, refuse_others, samples_of_shard
from model.data.shards import Sample, ShardSet
from schemas.files import whole_file

WORD = pa.struct([("text", pa.string()), ("start", pa.int32()), ("end", pa.int32()), ("timing", pa.string())])
SEGMENT = pa.struct(
    [("id", pa.string()), ("start", pa.int64()), ("end", pa.int64()), ("frame_start", pa.int32()), ("frame_end", pa.int32()),
     ("speaker", pa.string())]
)  # fmt: skip
COLUMNS = {
    "key": pa.string(),
    "recording_id": pa.string(),
    "uri": pa.string(),
    "language": pa.string(),
    "text": pa.string(),
    "units": pa.list_(pa.uint16()),
    "words": pa.list_(WORD),
    "patch_bounds": pa.list_(pa.int32()),
    "patch_kind": pa.list_(pa.int8()),
    "segments": pa.list_(SEGMENT),
    "hop": pa.int32(),
}
AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def export(shards: ShardSet, out: Path) -> str:
    """Write one `out/data/train-*.parquet` per shard; returns a sentence about it.

    Raises:
        ConfigError: there are files of another export.
    """
    folder, total, rows = out / "data", len(shards.counts), 0
    names = [f"train-{shard:05d}-of-{total:05d}.parquet" for shard in range(total)]
    refuse_others(folder, "train-*.parquet", names)
    for shard, name in enumerate(names):
        table = _table(shards, shard)
        with whole_file(folder / name) as partial:
            pq.write_table(table, partial, compression="zstd", row_group_size=256)
        rows += table.num_rows
    return f"{rows} rows in {total} Parquet files"


def _table(shards: ShardSet, shard: int) -> pa.Table:
    rows = [row(sample) for sample in samples_of_shard(shards, shard)]
    columns = dict(COLUMNS)
    flac = [shards.member(shard, number, "flac") for number in range(len(rows))]
    if rows and all(data is not None for data in flac):
        columns["audio"] = AUDIO
        for line, data in zip(rows, flac, strict=True):
            line["audio"] = {"bytes": data, "path": f"{line['key']}.flac"}
    schema = pa.schema(list(columns.items()))
    if "audio" in columns:  # the type that Arrow has no word for
        features = {"info": {"features": {"audio": {"_type": "Audio", "sampling_rate": shards.index.sample_rate}}}}
        schema = schema.with_metadata({"huggingface": json.dumps(features)})
    return pa.Table.from_pylist(rows, schema=schema)


def row(sample: Sample) -> dict[str, Any]:
    """One sample. Words and patches count in frames of the passage, segments in samples of the recording at 16 kHz."""
    meta = sample.meta
    return {
        "key": meta.key,
        "recording_id": meta.recording_id,
        "uri": meta.uri,
        "language": meta.language,
        "text": meta.text,
        "units": sample.units,
        "words": [
            {"text": meta.text[a:b], "start": start, "end": end, "timing": TIMINGS[code]}
            for (a, b), (start, end, code) in zip(meta.words, sample.words.tolist(), strict=True)
        ],
        "patch_bounds": sample.patch,
        "patch_kind": meta.patch_kind,
        "segments": [
            {
                "id": span.segment_id,
                "start": span.start,
                "end": span.end,
                "frame_start": span.frame_start,
                "frame_end": span.frame_end,
                "speaker": span.speaker,
            }
            for span in meta.segments
        ],
        "hop": meta.hop,
    }
