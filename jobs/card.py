"""Print the data card of a shard set: hours, languages, licences, units, and the models that made them."""

from __future__ import annotations

import argparse
import tempfile

from jobs.exports.card import data_card
from jobs.exports.spoken import shares_of
from jobs.runtime.cli import exit_with
from model.data.shards import ShardCache, ShardError, ShardSet
from schemas.config import ConfigError

EXAMPLES = """example:
  python -m jobs.card runs/demo/shards/index.json
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="the index.json of a shard set: a path or an fsspec URL")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            shards = ShardSet(given.shards, ShardCache(scratch, 1 << 32), keep_open=2)
            print(data_card(shards.index, shares_of(shards)), end="")
        except ShardError as error:
            raise ConfigError(str(error)) from error
    return 0


if __name__ == "__main__":
    exit_with(main)
