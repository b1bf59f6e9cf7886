"""The rejects of a run: read from its commits, shown a few at a time, and counted as they come so that a bad run ends early."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm

from jobs.runtime.job import stop_path
from jobs.runtime.plan import Plan
from schemas.tables import Reject

SPEC = "control/spec.json"
"""The spec of the last run, which `lst rejects OUTPUT` reads."""
FIRST_FEW = 5
"""Sentences that are shown at once; `lst rejects` shows them all."""
DEVIATIONS = 3.0
"""A rate that is measured on some rows must lie this many standard deviations above the one that is allowed."""
LEAST_ROWS = 50
"""Rows before a measured rate is trusted at all."""


def read_rejects(plan: Plan, stages: Sequence[str] | None = None) -> Iterator[Reject]:
    """The rejects of the commits that stand, stage by stage in the order of the pipeline."""
    for stage in plan.stages if stages is None else stages:
        for commit in plan.commits(stage):
            if commit.rows_rejected:
                yield from plan.store.read_table(Reject, commit.outputs["rejects"])


def one_line(reject: Reject) -> str:
    """Stage, code and sentence; the sentence names the file or the segment."""
    named = reject.detail if reject.id in reject.detail else f"{reject.id}: {reject.detail}"
    return f"{reject.stage} {reject.code}: {named}"


def few_lines(plan: Plan, command: str) -> list[str]:
    """The first sentences and the way to the rest; nothing where nothing was rejected."""
    lines: list[str] = []
    for reject in read_rejects(plan):
        if len(lines) == FIRST_FEW:
            break
        lines.append(f"  {one_line(reject)}")
    return [*lines, f"  all of them: {command}"] if lines else []


def allowance(rate: float, rows: int) -> str:
    """What a rate of rejects means for a number of rows, in words."""
    allowed = math.floor(rate * rows + 1e-9)
    return f"{rate:.1%} of {rows} rows is {f'{rate * rows:.1f}, so ' if not allowed else ''}{allowed or 'not one'}"


def is_too_high(rejected: int, rows: int, total: int | None, rate: float) -> bool:
    """Whether the rate of a stage will be above the allowed one, as far as can be said now.

    Certain where more of the `total` rows are rejected than may be; else by Wilson's interval over the rows so far.
    """
    if total is not None and rejected > rate * total + 1e-9:
        return True
    if rows < LEAST_ROWS:
        return False
    share, z = rejected / rows, DEVIATIONS
    spread = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return (share + z * z / (2 * rows) - spread) / (1 + z * z / rows) > rate


@dataclass
class _Tally:
    rows: int = 0
    rejected: int = 0


class RejectRate:
    """Counts commits as they appear, and says the first few sentences of this run at once."""

    def __init__(self, plan: Plan, stages: Sequence[str]) -> None:
        self._plan = plan
        self._seen: dict[str, set[str]] = {stage: set() for stage in stages}
        self._tallies = {stage: _Tally() for stage in stages}
        self._pending = {stage: set(plan.pending(stage)) for stage in stages}
        self._shown = 0
        self._files = sum(len(partition.items) for partition in plan.partitions)

    def is_passed(self) -> bool:
        """Whether a stage's rejects have passed `max_reject_rate`; reads the commits that are new."""
        return any(self._look(stage) for stage in self._seen)

    def _say(self, rejects: Sequence[Reject]) -> None:
        for reject in rejects[: FIRST_FEW - self._shown]:
            tqdm.write(f"rejected: {one_line(reject)}", file=sys.stderr)
            self._shown += 1

    def _look(self, stage: str) -> bool:
        plan, tally = self._plan, self._tallies[stage]
        fingerprint = plan.stages[stage].fingerprint
        new = (plan.store.committed(stage, fingerprint) & set(plan.units_of_work(stage))) - self._seen[stage]
        for name in sorted(new):
            commit = plan.store.read_commit(stage, fingerprint, name)
            tally.rows += commit.rows_in
            tally.rejected += commit.rows_rejected
            if commit.rows_rejected and name in self._pending.get(stage, ()) and self._shown < FIRST_FEW:
                self._say(plan.store.read_table(Reject, commit.outputs["rejects"]))
        self._seen[stage] |= new
        total = self._files if stage == "recordings" else None
        return is_too_high(tally.rejected, tally.rows, total, plan.spec.max_reject_rate)


@contextmanager
def ended_by_rejects(plan: Plan, stages: Sequence[str], run_id: str) -> Iterator[None]:
    """Ask the workers of a run to begin nothing new as soon as its rejects have passed the rate."""
    rate, ended = RejectRate(plan, stages), threading.Event()

    def watch() -> None:
        while not ended.wait(1.0 if plan.store.is_local else 15.0):
            if rate.is_passed():
                plan.store.write_bytes(stop_path(run_id), b"")
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        rate.is_passed()  # what came since it last looked is said as well
