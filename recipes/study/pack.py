"""Put a finished study's records into one file: hundreds of small ones take twice their room on a disk.

    python -m recipes.study.pack docs/results/study

They are read as before, by unit. A run that is made or measured anew has a file of its own again, which is read instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.study.records.ledger import ARCHIVE, Ledger
from schemas.commands.cli import Parser, command
from schemas.config import ConfigError

KINDS = ("runs", "rates", "losses", "asr")
"""What is packed. Facts stay to be read by eye, and what a task is may be shared by a link."""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Pack the records of a folder."""
    parser = Parser(__doc__)
    parser.add_argument("results", type=Path, help="a study's results_dir")
    given = parser.parse_args(arguments)
    if not (given.results / "facts.json").exists():
        raise ConfigError(f"{given.results} holds no study: it has no facts.json")
    print(f"{Ledger(given.results).pack(KINDS)} records -> {given.results / ARCHIVE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
