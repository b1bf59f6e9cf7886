"""Readings out of records: accuracies with intervals, differences from the baseline, means over seeds, curves at equal x."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from model.scoring.accuracy import ConfidenceInterval, bootstrap
from model.scoring.scorer import Normalisation

NORMALISATION: Normalisation = "token"
"""Of the tables: log-likelihood per token or unit, as SpiRit-LM reports; the records hold the others too."""
VALUES = {"0": 0.0, "5": 0.5, "1": 1.0}
Record = dict[str, Any]


def points(record: Record, task: str, direction: str, group: str | None = None) -> list[float]:
    """Points of the items of a task in one direction (of one group, or of all in turn); [] where none was scored."""
    groups = record["measures"]["tasks"].get(task, {})
    chosen = (
        [groups[group]] if group is not None and group in groups else list(groups.values()) if group is None else []
    )
    return [VALUES[c] for found in chosen for c in found.get(direction, {}).get(NORMALISATION, "")]


def accuracy(record: Record, task: str, direction: str, group: str | None = None) -> ConfidenceInterval | None:
    """Share of right choices with its 95 % interval over items; None where nothing was scored."""
    values = points(record, task, direction, group)
    return bootstrap(values) if values else None


def difference(
    record: Record, other: Record, task: str, direction: str, group: str | None = None
) -> ConfidenceInterval | None:
    """Accuracy of `record` less that of `other`, resampled in pairs of the same items."""
    mine, theirs = points(record, task, direction, group), points(other, task, direction, group)
    if not mine or len(mine) != len(theirs):
        return None
    return bootstrap([a - b for a, b in zip(mine, theirs, strict=True)])


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean over seeds."""

    mean: float
    deviation: float | None
    """Sample standard deviation; None with one seed."""
    seeds: int


def spread(values: Sequence[float]) -> Spread:
    """The mean of `values` and their sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(mean=statistics.fmean(values), deviation=deviation, seeds=len(values))


def at(curve: Sequence[Record], x: str, value: float, y: str) -> float | None:
    """`y` where `x` has `value`, on straight lines between the points that have both; None beyond their ends.

    With x = flops this is a curve read at equal operations, with elements at equal tokens, with core_seconds at equal time.
    """
    found = sorted((row[x], row[y]) for row in curve if row.get(x) is not None and row.get(y) is not None)
    for (x0, y0), (x1, y1) in pairwise(found):
        if x0 <= value <= x1:
            return float(y0) if x1 == x0 else float(y0 + (y1 - y0) * (value - x0) / (x1 - x0))
    if found and found[-1][0] == value:
        return float(found[-1][1])
    return None


def run_of(runs: dict[str, Record], arm: str, seed: int, control: str, baseline: str) -> Record | None:
    """The run that answers a control: the plain baseline's only run answers all, since the budgets are its own."""
    return runs.get(f"{arm}-s{seed}-{'compute' if arm == baseline else control}")


def tasks_in(runs: dict[str, Record]) -> dict[str, list[str]]:
    """task -> groups, in the order of the records."""
    found: dict[str, list[str]] = {}
    for record in runs.values():
        for task, groups in record["measures"]["tasks"].items():
            known = found.setdefault(task, [])
            known += [group for group in groups if group not in known]
    return found


def directions_in(runs: dict[str, Record], task: str) -> list[str]:
    """The directions in which any run was scored on a task, speech first."""
    found = {
        d for record in runs.values() for group in record["measures"]["tasks"].get(task, {}).values() for d in group
    }
    return [direction for direction in ("S->S", "T->T", "S->T", "T->S") if direction in found]
