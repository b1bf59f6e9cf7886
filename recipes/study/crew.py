"""Several units of work at a time, each in a process of its own: what `--jobs` does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from recipes.study.design.plan import WorkUnit
from recipes.study.records.ledger import Ledger

POLL_SECONDS = 0.5


def run_crew(command: Sequence[str], wanted: Sequence[WorkUnit], ledger: Ledger, jobs: int, hours: float | None) -> int:
    """Do the units that have no record, `jobs` at a time; returns the first exit code that is not 0.

    `command` does one unit when `--unit NAME` is added. A run waits for its arm's grid, and for another run of its arm and seed:
    both would train the same trunk. After an error nothing new begins.
    """
    end = None if hours is None else time.monotonic() + 3600 * hours
    waiting = [unit for unit in wanted if not ledger.has(unit.name)]
    running: dict[str, tuple[WorkUnit, subprocess.Popen[bytes]]] = {}
    code = 0
    try:
        while running or (waiting and code == 0):
            for name, (_, process) in list(running.items()):
                if (ended := process.poll()) is not None:
                    code = code or ended
                    del running[name]
            while code == 0 and len(running) < jobs and (unit := _next(waiting, running, ledger, wanted)) is not None:
                waiting.remove(unit)
                left = [] if end is None else ["--hours", f"{max(0.0, end - time.monotonic()) / 3600:.5f}"]
                running[unit.name] = unit, subprocess.Popen([*command, "--unit", unit.name, *left])
                print(f"{unit.name} begins; {len(waiting)} wait", file=sys.stderr, flush=True)
            time.sleep(POLL_SECONDS)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
    return code


def _next(
    waiting: Sequence[WorkUnit],
    running: dict[str, tuple[WorkUnit, subprocess.Popen[bytes]]],
    ledger: Ledger,
    wanted: Sequence[WorkUnit],
) -> WorkUnit | None:
    """The first unit that may begin now."""
    busy = {(unit.arm, unit.seed) for unit, _ in running.values() if unit.kind != "rates"}
    for unit in waiting:
        needs = [
            other.name
            for other in wanted
            if other.arm == unit.arm
            and (
                (unit.kind == "runs" and other.kind == "rates")
                or (unit.kind == "asr" and other.kind == "runs" and other.seed == unit.seed)
            )
        ]
        free = unit.kind == "rates" or (unit.arm, unit.seed) not in busy
        if free and all(ledger.has(name) for name in needs):
            return unit
    return None
