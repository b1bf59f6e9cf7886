"""Work in parts: each is a file or folder that appears whole, made by a process of its own, and never made twice."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from schemas.errors import ExitCode, UserError


@dataclass(frozen=True, kw_only=True)
class Part:
    """`make(scratch, *arguments)` writes to a scratch path, which is then renamed to `path`."""

    path: Path
    make: Callable[..., None]
    arguments: tuple[Any, ...]
    size: int
    """For the progress: stories, say."""


class PartError(UserError):
    """A part could not be made; its process has said why."""

    code = ExitCode.NOT_ACCEPTED


def run_parts(parts: Sequence[Part], processes: int, what: str, unit: str, scratch: Path) -> int:
    """Make the parts that are not there yet; returns how many were made.

    A fresh process for each part: synthesisers keep state from sentence to sentence, and a part must not depend on what was
    made before it. A process that outlives a killed parent ends by itself after its part.

    Raises:
        PartError: a process ended with an error.
    """
    missing = [part for part in parts if not part.path.exists()]
    shutil.rmtree(scratch, ignore_errors=True)
    if not missing:
        return 0
    scratch.mkdir(parents=True, exist_ok=True)  # the orphan of a killed run may still be writing there
    context = multiprocessing.get_context("forkserver")
    running: dict[Any, tuple[BaseProcess, Part]] = {}
    waiting = list(reversed(missing))
    try:
        with tqdm(total=sum(part.size for part in missing), desc=what, unit=unit, mininterval=1) as progress:
            while waiting or running:
                while waiting and len(running) < processes:
                    part = waiting.pop()
                    process: BaseProcess = context.Process(target=_make, args=(part, scratch), daemon=True)
                    process.start()
                    running[process.sentinel] = (process, part)
                for sentinel in wait(list(running)):
                    process, part = running.pop(sentinel)
                    process.join()
                    if process.exitcode != 0:
                        raise PartError(f"{what}: {part.path.name} failed (exit code {process.exitcode}); see above")
                    progress.update(part.size)
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()
        shutil.rmtree(scratch, ignore_errors=True)
    return len(missing)


def _make(part: Part, scratch: Path) -> None:
    temporary = scratch / f"{part.path.name}-{multiprocessing.current_process().pid}"
    part.make(temporary, *part.arguments)
    part.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.rename(part.path)
    except OSError:
        if not part.path.is_dir():  # an orphan was first, with the same bytes
            raise
