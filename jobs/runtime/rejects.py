"""The rejects of a run: read from its commits, shown a few at a time, and counted as they come so that a bad run ends early."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow.compute as pc

from jobs.monitoring.logs import LOG
from jobs.runtime.plan import Plan
from schemas.commands.cli import on_one_line
from schemas.commit import KINDS, Commit
from schemas.tables import Reject

SPEC = "control/spec.json"
"""The spec of the last run, which `lst rejects OUTPUT` reads."""
FIRST_FEW = 5
"""Sentences that are shown at once, besides the first of each code; `lst rejects` shows them all."""
LOOKED_AT = 16
"""Commits of a stage in which these are looked for."""
DEVIATIONS = 3.0
"""A rate that is measured on some rows must lie this many standard deviations above the one that is allowed: it is looked at
again and again, and at two about one look in forty would end a run for nothing, at three one in a thousand."""
LEAST_ROWS = 50
"""Rows before a measured rate is trusted at all."""


def read_rejects(plan: Plan, stages: Sequence[str] | None = None) -> Iterator[Reject]:
    """The rejects of the commits that stand, stage by stage in the order of the pipeline."""
    for stage in plan.stages if stages is None else stages:
        for commit in plan.commits(stage, with_rejects=True):
            yield from plan.store.read_table(Reject, commit.outputs["rejects"])


def one_line(reject: Reject) -> str:
    """Stage, code and sentence; the sentence names the file or the segment."""
    named = reject.detail if reject.id in reject.detail else f"{reject.id}: {reject.detail}"
    return on_one_line(f"{reject.stage} {reject.code}: {named}")


def few_lines(plan: Plan, command: str) -> list[str]:
    """A sentence of each code, then more as far as there is room, and the way to the rest; nothing where nothing was rejected.

    Of each stage a few commits are looked at: a corpus may have millions.
    """
    of_code: dict[str, Reject] = {}
    others: list[Reject] = []
    for stage in plan.stages:
        for commit in islice(plan.commits(stage, with_rejects=True), LOOKED_AT):
            if len(of_code) + len(others) >= FIRST_FEW and commit.rejects_by_code.keys() <= of_code.keys():
                continue
            for reject in plan.store.read_table(Reject, commit.outputs["rejects"]):
                if of_code.setdefault(reject.code, reject) is not reject and len(others) < FIRST_FEW:
                    others.append(reject)
    lines = [f"  {one_line(reject)}" for reject in [*of_code.values(), *others][:FIRST_FEW]]
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
    """Counts commits as they come back, and says the first few sentences of this run at once, and the first of each code."""

    def __init__(self, plan: Plan, stages: Sequence[str]) -> None:
        self._plan = plan
        self._tallies = {stage: _Tally() for stage in stages}
        for stage, tally in self._tallies.items():
            for table in plan.logs[stage].select(plan.rows(stage), ["rows_in", "rows_rejected"]):
                tally.rows += pc.sum(table.column("rows_in")).as_py()
                tally.rejected += pc.sum(table.column("rows_rejected")).as_py()
        self._shown: Counter[str] = Counter()
        self.is_passed = any(self._is_too_high(stage) for stage in stages)
        """Whether a stage's rejects have passed `max_reject_rate`."""

    def passes(self, commits: Sequence[Commit]) -> bool:
        """Count new commits; whether the rate is passed with them."""
        for commit in commits:
            tally = self._tallies[commit.stage]
            tally.rows += commit.rows_in
            tally.rejected += commit.rows_rejected
            if any(self._shall_say(code) for code in commit.rejects_by_code):
                self._say(self._plan.store.read_table(Reject, commit.outputs["rejects"]))
            self.is_passed = self.is_passed or self._is_too_high(commit.stage)
        return self.is_passed

    def _shall_say(self, code: str) -> bool:
        return not self._shown[code] or self._shown.total() < FIRST_FEW

    def _say(self, rejects: Sequence[Reject]) -> None:
        for reject in rejects:
            if self._shall_say(reject.code):
                LOG.warning("rejected: %s", one_line(reject))
                self._shown[reject.code] += 1

    def _is_too_high(self, stage: str) -> bool:
        tally = self._tallies[stage]
        total = self._plan.partitions.num_files if not KINDS[stage].upstream else None
        return is_too_high(tally.rejected, tally.rows, total, self._plan.spec.max_reject_rate)
