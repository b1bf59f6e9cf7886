"""Run every benchmark that fits in the time, one after the other, and write docs/results/bench.md with their tables.

Each runs in a process of its own, so that none warms another's caches. What does not finish in time is said so on the page.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import Measurement, child, format_table
from schemas.commands.cli import Parser, command

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "bench.md"
NOT_BENCHMARKS = {"__init__", "harness", "run_all", "tiny_models"}


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks named, or all; write the page where all were asked for."""
    parser = Parser(__doc__)
    parser.add_argument("names", nargs="*", help="benchmarks to run (default: all)")
    parser.add_argument("--minutes", type=float, default=15.0, help="time for all of them (default: %(default)s)")
    given = parser.parse_args(arguments)
    here = Path(__file__).parent
    names = (".".join(path.relative_to(here).with_suffix("").parts) for path in here.rglob("*.py"))
    known = sorted(name for name in names if name.rpartition(".")[2] not in NOT_BENCHMARKS)
    if unknown := set(given.names) - set(known):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    deadline = time.monotonic() + given.minutes * 60
    top = heading()
    sections = [run_one(name, deadline) for name in given.names or known]
    if not given.names:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(top + "\n".join(sections), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


def run_one(name: str, deadline: float) -> str:
    """One benchmark's section of the page."""
    left = deadline - time.monotonic()
    title = f"## {name}\n\n`python -m benchmarks.{name}`\n\n"
    if left <= 0:
        return f"{title}Not run: the time was up.\n"
    print(f"{name} ...", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(path)]
        try:
            with child(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
                _, said = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:  # it was asked to end, and has ended what it had started
            return f"{title}Not finished in the {left:.0f} s that were left.\n"
        if process.returncode != 0:
            return f"{title}Failed: {last_line(said)}\n"
        rows = [Measurement(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    table = format_table(rows)
    print(table, flush=True)
    return f"{title}{table}\n\n{time.monotonic() - start:.0f} s\n"


def last_line(text: str) -> str:
    """The last line of an error's text, which says what it was."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def heading() -> str:
    """The top of the page: when, on what, and how to do it again."""
    return (
        f"# Benchmarks\n\nWritten by `make bench` on {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores "
        f"({platform.machine()}), Python {platform.python_version()}, no GPU, load average {os.getloadavg()[1]:.1f} at the start "
        "(well above 0, others were working: then only ratios and accuracies mean something). Every speed is a ratio "
        "within one run against a named rival; absolute numbers are this machine's.\n\n"
    )


if __name__ == "__main__":
    sys.exit(main())
