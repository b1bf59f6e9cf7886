"""Work that may take its process down, done in another one: on a GPU a fault of one kernel fails all that its process does after.

The process at work notes in a file, line by line as JSON, what it begins (`{"begun": name}`) and what became of it (a `Result`).
Where it dies, hangs or gives up after a failure, what it was at has failed, and a new process goes on with the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]
CARD = "the card"
"""The name under which the card itself is described."""
LOOKS_EVERY = 0.1
"""Seconds."""


def notes(record: Path) -> list[Result]:
    """The whole lines of a record so far."""
    lines = record.read_text(encoding="utf-8").split("\n")[:-1] if record.exists() else []
    return [json.loads(line) for line in lines]


def note(record: Path, entry: Result) -> None:
    """Add a line."""
    with record.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def finished(record: Path) -> set[str]:
    """Names that have a result."""
    return {entry["name"] for entry in notes(record) if "name" in entry}


def work_through(record: Path, work: dict[str, Callable[[], Result]], *, anew: Collection[str] = ()) -> int:
    """Do what has no result yet, in order; 1 after a failure, since the device may be of no more use to this process.

    `anew`: what leaves the process in a state that would change the figures of the next; 1 after these too.
    """
    done = finished(record)
    for name, call in work.items():
        if name in done:
            continue
        note(record, {"begun": name})
        result = call()
        note(record, result)
        if result["status"] == "failed" or (name in anew and result["status"] == "passed"):
            return 1
    return 0


def supervised(command: Sequence[str], record: Path, *, each: float, until: float) -> Iterator[Result]:
    """Results of `command`, started again as long as it goes on; it is told of `record` as its last argument.

    `each`: seconds that one piece may take. `until`: where `time.monotonic()` ends all of it.
    """
    seen = len(notes(record))
    while time.monotonic() < until:
        before, doing = seen, None
        log = record.with_suffix(".log")
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [*command, str(record)], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        begun, why = time.monotonic(), ""
        try:
            while True:
                ended = process.poll() is not None
                for entry in notes(record)[seen:]:
                    seen, begun = seen + 1, time.monotonic()
                    doing = entry.get("begun")
                    if doing is None:
                        yield entry
                if ended:
                    break
                if time.monotonic() > until or time.monotonic() - begun > each:
                    why = f"still running after {time.monotonic() - begun:.0f} s"
                    break
                time.sleep(LOOKS_EVERY)
        finally:
            _end(process)
        code = process.wait()
        if doing is not None or (code and seen == before):
            why = why or f"its process ended with {code}: {log.read_text(encoding='utf-8', errors='replace')[-600:]}"
            failed = {"name": doing or "start", "status": "failed", "why": why}
            note(record, failed)
            seen += 1
            yield failed
        if code == 0 or (doing is None and seen - before <= 1):
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    """With everything that it started: compilers among them."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def python(*arguments: str) -> list[str]:
    """A command line of this Python."""
    return [sys.executable, *arguments]
