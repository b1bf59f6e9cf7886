"""How a run stands: stages, rate, rejects, time left, its owner's heartbeat. From any machine that reaches the output.

Reads the log of commits and the lease alone: no model, no audio, no Ray. OUTPUT is a folder or a URL such as s3://bucket/run.
Of the partitions that ended in the last ten minutes: `h/h` is the hours of audio that went through a stage in an hour, `busy` how
many workers were at it on average; `-` where none ended, though one may be at work.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from schemas.commands.cli import Parser, command, positive
from schemas.errors import ConfigError

EXAMPLES = """  lst status runs/demo
  lst status s3://bucket/librilight --watch 30
  lst status runs/demo --as-json
"""
CLEAR = "\033[H\033[2J"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print how the run stands, once or again and again."""
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument("output", metavar="OUTPUT", help="the folder or URL that the run writes to")
    parser.add_argument("--as-json", action="store_true", help="as one line of JSON")
    parser.add_argument(
        "--watch",
        type=positive,
        nargs="?",
        const=10.0,
        metavar="SECONDS",
        help="look again every so many seconds, until the run ends (default: 10)",
    )
    given = parser.parse_args(arguments)
    from jobs.reporting.state import format_state, read_state

    if "://" not in given.output and not Path(given.output).is_dir():
        raise ConfigError(f"there is no folder {given.output}", "name the `output` of a spec, such as runs/demo")
    while True:
        state = read_state(given.output)
        text = json.dumps(state.as_json()) if given.as_json else format_state(state)
        redraw = given.watch is not None and not given.as_json and sys.stdout.isatty()
        print(CLEAR + text if redraw else text, flush=True)
        if given.watch is None or state.state != "running":
            return 0
        time.sleep(max(given.watch, 0.1))


if __name__ == "__main__":
    sys.exit(main())
