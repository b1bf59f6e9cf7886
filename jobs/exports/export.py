"""Shards in the formats that other tools read.

textgrid   Praat TextGrids, one per recording          ctm       NIST CTM, one line a word
lhotse     cuts with word alignments (extra `lhotse`)   hf        Parquet for Hugging Face `datasets`
slamkit    feature rows with word times                 lst-jsonl the official LST code's JSONL

Nothing is guessed and nothing is lost without a word: docs/exports.md says what each format holds.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from jobs.exports import ctm, hugging_face, lhotse_cuts, lst_jsonl, slamkit, textgrid
from jobs.exports.card import data_card
from jobs.exports.spoken import shares_of, write_whole
from model.data.shards import ShardCache, ShardSet
from schemas.commands.cli import Parser, command, here
from schemas.config import ConfigError

FORMATS: dict[str, Callable[[ShardSet, Path], str]] = {
    "textgrid": textgrid.export,
    "ctm": ctm.export,
    "slamkit": slamkit.export,
    "lst-jsonl": lst_jsonl.export,
    "hf": hugging_face.export,
}
EXAMPLES = """  lst export runs/demo/shards/index.json --format textgrid --out exports/textgrid
  lst export s3://bucket/run/shards/index.json --format lhotse --audio /data/corpus --out exports/lhotse
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write a shard set in another tool's format, with its data card."""
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument("shards", help="the index.json of a shard set: a path or an fsspec URL")
    parser.add_argument("--format", required=True, choices=sorted([*FORMATS, "lhotse"]), help="the format")
    parser.add_argument("--out", required=True, type=here, help="the folder to write")
    parser.add_argument("--audio", type=Path, help="lhotse: the folder that the source's audio is in")
    given = parser.parse_args(arguments)
    if given.audio is not None and given.format != "lhotse":
        raise ConfigError(f"--audio is read by --format lhotse alone, and --format is {given.format}")
    with tempfile.TemporaryDirectory() as scratch:
        shards = ShardSet(given.shards, ShardCache(scratch, 1 << 32), keep_open=2)
        try:
            if shards.index.kind == "text" and given.format not in ("lst-jsonl", "hf"):
                raise ConfigError(f"{given.shards} is a text-only set: --format {given.format} needs speech")
            if given.format == "lhotse":
                told = lhotse_cuts.export(shards, given.out, given.audio)
            else:
                told = FORMATS[given.format](shards, given.out)
            write_whole(given.out / "README.md", data_card(shards.index, shares_of(shards), given.format))
        finally:
            shards.close()
    print(f"{given.out}: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
