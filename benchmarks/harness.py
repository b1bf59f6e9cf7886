"""The one form of every benchmark: rows with a value, the rival measured in the same run, the goal, and whether it holds."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schemas.commands.cli import Parser, run_command

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60.0
"""Seconds that a command has to finish what is in flight when its benchmark is stopped."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of a benchmark. `holds` is None where there is no goal."""

    name: str
    value: float
    unit: str
    rival: str = ""
    rival_value: float | None = None
    goal: str = ""
    holds: bool | None = None


@contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A command, run from the checkout, that does not outlive the body: where a signal to the benchmark or an error ends that
    first, it gets SIGTERM, and after PATIENCE seconds SIGKILL. `options`: of `subprocess.Popen`."""
    process: subprocess.Popen[str] = subprocess.Popen(command, cwd=ROOT, text=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def seconds_per_call(call: Callable[[], object], repeats: int = 5, warmup: int = 1) -> float:
    """The median wall seconds of `call` over `repeats`, after `warmup` calls that are not counted."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def fastest_of(
    calls: Sequence[Callable[[], object]], rounds: int = 7, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """The least seconds of each call, the calls taking turns: so what else the machine does slows all of them alike. With
    `time.process_time` as the clock, seconds of a processor."""
    best = [float("inf")] * len(calls)
    for call in calls:
        call()  # compiles, allocates
    for _ in range(rounds):
        for index, call in enumerate(calls):
            start = clock()
            call()
            best[index] = min(best[index], clock() - start)
    return best


def format_table(rows: list[Measurement]) -> str:
    """The rows as a Markdown table, which is also what a terminal shows."""
    header = ("name", "value", "unit", "rival", "rival value", "goal", "holds")
    holds = {True: "yes", False: "NO", None: ""}
    cells = [header] + [
        (row.name, _number(row.value), row.unit, row.rival, _number(row.rival_value), row.goal, holds[row.holds])
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def main(run: Callable[[], list[Measurement]], description: str | None) -> None:
    """Run a benchmark from the command line: print its table, and with --json PATH write its rows."""

    def measure(arguments: Sequence[str] | None) -> int:
        parser = Parser(description)
        parser.add_argument("--json", type=Path, help="also write the rows here")
        given = parser.parse_args(arguments)
        rows = run()
        print(format_table(rows))
        if given.json:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
        return 0

    sys.exit(run_command(measure))
