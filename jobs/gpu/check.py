"""What one GPU makes of this code, in under nine minutes: the tests that need one, speed and memory of real sizes, and batches of
the pipeline's HuBERT and Whisper where their weights are.

Each part is done apart, so that one which crashes or hangs loses nothing but itself, and the page is written after each.
Without a GPU it says "not run". A machine without the pipeline's packages runs `python -m model.gpu_check`, which leaves the
pipeline out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.gpu.pieces import SPECS, Device, pieces_of
from model.gpu.apart import python
from model.gpu_check import Pipeline, check, make_parser
from schemas.commands.cli import command

REHEARSAL = "runs/gpu-rehearsal"
EXAMPLES = """  lst gpu-check                                      all of it; writes docs/results/gpu.json and docs/results/gpu.md
  lst gpu-check --out /tmp/gpu --only 1b HuBERT      some of the measurements, elsewhere
  lst gpu-check --config my.yaml --only Whisper      the recogniser of your own spec
  lst gpu-check --rehearse                           the pipeline's part on the processor, in small
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 where a test failed or a measurement raised."""
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--config",
        nargs="+",
        metavar="SPEC",
        default=list(SPECS),
        help="specs whose HuBERT and Whisper are measured (default: %(default)s)",
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help=f"measure the pipeline's batches alone, on the processor and on little audio; --out is then {REHEARSAL}",
    )
    given = parser.parse_args(arguments)
    device: Device = "cpu" if given.rehearse else "cuda"
    if given.rehearse:
        given.out = given.out or REHEARSAL
    specs = [f"--config={path}" for path in given.config]
    work = python("-m", "jobs.gpu.work", f"--device={device}", *specs)
    names = list(pieces_of(given.config, device))
    return check(given, Pipeline(command=work, names=names), on_card=not given.rehearse)


if __name__ == "__main__":
    sys.exit(main())
