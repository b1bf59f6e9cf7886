"""Print the data card of a shard set: hours, languages, licences, units, and the models that made them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from jobs.exports.card import data_card
from jobs.exports.spoken import shares_of
from model.data.shards import ShardCache, ShardSet
from schemas.commands.cli import Parser, command

EXAMPLES = """  lst card runs/demo/shards/index.json
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print a shard set's data card."""
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument("shards", help="the index.json of a shard set: a path or an fsspec URL")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        shards = ShardSet(given.shards, ShardCache(scratch, 1 << 32), keep_open=2)
        print(data_card(shards.index, shares_of(shards)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
