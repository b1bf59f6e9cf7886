"""How far a run is, how fast it goes and when it will be done, from what its commits say they took.

Stages differ in cost by a factor of a hundred, so neither partitions nor hours are counted but work: the hours of audio that a
stage has before it, times the busy seconds that an hour took there so far. An estimate by finished hours alone jumps whenever a
dear stage begins after a cheap one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from schemas.commit import Commit

RECENT = 600.0
"""Seconds over which the present rate is taken."""


class UnitHours:
    """Hours of audio of a unit by its name. A corpus has millions: two arrays, no objects."""

    def __init__(self, units: np.ndarray, hours: np.ndarray) -> None:
        """S16 [n] names, float64 [n] hours."""
        self._order = np.argsort(units, kind="stable")
        self._units, self._hours = units, hours

    def of(self, unit: str) -> float:
        """The hours; 0 for a unit that is none of these."""
        place = int(np.searchsorted(self._units, unit.encode(), sorter=self._order))
        number = self._order[min(place, len(self._order) - 1)] if len(self._order) else -1
        known = number >= 0 and self._units[number] == unit.encode()
        return float(self._hours[number]) if known else 0.0


@dataclass(kw_only=True)
class StageProgress:
    """One stage of a run. Hours are of audio, by the headers of the files."""

    stage: str
    units: int
    hours: float
    units_done: int = 0
    hours_done: float = 0.0
    busy_seconds: float = 0.0
    """Of the units that are done, whenever that was."""
    rejects: Counter[str] = field(default_factory=Counter)
    is_awaited: bool = True
    """Whether there is no estimate before some of it is done. Shards are written last and cost next to nothing."""

    @property
    def cost(self) -> float | None:
        """Busy seconds per hour of audio, None before anything was measured."""
        return self.busy_seconds / self.hours_done if self.hours_done else None

    @property
    def hours_left(self) -> float:
        """Hours of audio still to be done."""
        return max(self.hours - self.hours_done, 0.0)

    def add(self, commit: Commit, hours: float) -> None:
        """A unit of this many hours is done."""
        self.units_done += 1
        self.hours_done += hours
        self.busy_seconds += commit.seconds_busy
        self.rejects.update(commit.rejects_by_code)


def count_codes(rejects: Counter[str], most: int) -> str:
    """The most frequent reject codes with their numbers, and how many there are of all others."""
    said = [f"{count} {code}" for code, count in rejects.most_common(most)]
    others = sum(count for _, count in rejects.most_common()[most:])
    return ", ".join([*said, f"{others} of other codes"] if others else said)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What can be said of a run now; None where nothing was measured yet."""

    share_done: float | None
    """Of the work of all stages."""
    rate: float | None
    """Hours of audio per hour, through all stages, lately."""
    seconds_left: float | None

    @property
    def left(self) -> str:
        """The time that is left, in words."""
        if self.seconds_left is None:
            if self.share_done is None:
                return "time left not known yet: first each stage must finish a partition"
            return f"time left not known now: nothing was finished in the last {duration(RECENT)}"
        if self.seconds_left < 1:
            return "nothing left" if self.share_done == 1.0 else "nearly through"  # what is left may hold no audio
        return f"{duration(self.seconds_left)} left"


def estimate(stages: Iterable[StageProgress], recent_work: float, recent_seconds: float) -> Estimate:
    """From the stages that a run is to do, and the busy seconds that the last `recent_seconds` brought.

    A stage of which nothing is done yet has no cost, so there is no estimate before each that is awaited has done something.
    """
    todo = [stage for stage in stages if stage.hours > 0]
    costs = [stage.cost for stage in todo]
    if not todo or any(stage.cost is None and stage.is_awaited for stage in todo):
        return Estimate(share_done=None, rate=None, seconds_left=None)
    left = sum(stage.hours_left * (cost or 0.0) for stage, cost in zip(todo, costs, strict=True))
    whole = sum(stage.hours * (cost or 0.0) for stage, cost in zip(todo, costs, strict=True))
    speed = recent_work / recent_seconds if recent_seconds > 0 else 0.0
    if all(stage.units_done == stage.units for stage in todo):
        return Estimate(share_done=1.0, rate=None, seconds_left=0.0)
    per_hour = sum(cost or 0.0 for cost in costs)
    return Estimate(
        share_done=min(1 - left / whole, 0.99) if whole else 0.0,
        rate=speed / per_hour * 3600 if speed and per_hour else None,
        seconds_left=left / speed if speed else None,
    )


def duration(seconds: float) -> str:
    """A length of time as a person says it: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
