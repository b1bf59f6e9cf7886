"""The process that measures batches, for `jobs.gpu.check`, which starts it as often as needed.

CTranslate2 keeps memory that it has freed, and so does glibc, so that the next network would seem to take less: a new process
after each Whisper, and after each network on a processor.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jobs.gpu.pieces import Piece, pieces_of
from model.gpu.apart import work_through
from schemas.errors import UserError
from schemas.hearing import WhisperXSpec

SECONDS = {"cuda": 600.0, "cpu": 40.0}
"""Of audio: by device, as many as take a few seconds with the shipped networks."""
WARM_UP = {"cuda": 100.0, "cpu": 5.0}


def attempt(piece: Piece, folder: Path) -> dict[str, Any]:
    """A measurement; what it raises is its result."""
    about = {"name": piece.name, "network": piece.network, "arithmetic": piece.arithmetic}
    device = piece.spec.device
    try:
        from jobs.gpu.batches import measure  # here, since it loads the pipeline's packages

        figures = measure(piece, folder, seconds=SECONDS[device], warm_up=WARM_UP[device])
    except UserError as error:
        return {**about, "status": "not run", "why": error.happened}
    except ModuleNotFoundError as error:
        return {**about, "status": "not run", "why": f"needs the package {error.name}"}
    except Exception as error:
        return {**about, "status": "failed", "why": f"{type(error).__name__}: {error}"[:600]}
    return {**about, "status": "passed", **figures}


def main(arguments: Sequence[str]) -> int:
    """Names of measurements, then the file that takes the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=SECONDS, required=True)
    parser.add_argument("--config", action="append", required=True)
    parser.add_argument("names", nargs="+")
    given = parser.parse_args(arguments)
    *names, record = given.names
    pieces = pieces_of(given.config, given.device)
    work: dict[str, Callable[[], dict[str, Any]]] = {
        name: partial(attempt, pieces[name], Path(record).parent) for name in names
    }
    anew = {name for name in names if given.device == "cpu" or isinstance(pieces[name].spec, WhisperXSpec)}
    return work_through(Path(record), work, anew=anew)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
