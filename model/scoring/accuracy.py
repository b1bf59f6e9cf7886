"""Accuracies of scored tasks, with bootstrap intervals over items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.data.draws import generator
from model.scoring.scorer import Normalisation, Scored
from schemas.config import ConfigError

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over items, and where it lies in 95 % of resamplings of the items (percentiles)."""

    value: float
    low: float
    high: float
    items: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def accuracy(scored: Sequence[Scored], normalisation: Normalisation, seed: int = 0) -> Interval:
    """Share of items whose right ending is the likeliest; of endings that tie, each counts its share.

    Pass the items of one direction (and group): `select` picks them.

    Raises:
        ValueError: there are none.
    """
    return bootstrap([item.point(normalisation) for item in scored], seed)


def difference(
    scored: Sequence[Scored], other: Sequence[Scored], normalisation: Normalisation, seed: int = 0
) -> Interval:
    """Accuracy of `scored` less that of `other` on the same items: resampled in pairs, so that what is hard for both cancels.

    Raises:
        ConfigError: they are not scores of the same items.
    """
    theirs = {(item.id, item.direction): item for item in other}
    if len(theirs) != len(scored) or any((item.id, item.direction) not in theirs for item in scored):
        raise ConfigError("the two sets of scores are not of the same items: score both checkpoints on one task file")
    pairs = [(item, theirs[item.id, item.direction]) for item in scored]
    return bootstrap([a.point(normalisation) - b.point(normalisation) for a, b in pairs], seed)


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of `values` and its percentile interval.

    Drawing items with replacement is drawing, from a multinomial, how often each distinct value occurs: there are few.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("an interval needs at least one item")
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    total = len(values)
    draws = generator(seed, "bootstrap", total).multinomial(total, counts / total, size=RESAMPLES)
    edge = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws @ distinct / total, [edge, 1 - edge]).tolist()
    return Interval(value=float(counts @ distinct) / total, low=low, high=high, items=total)


def select(scored: Sequence[Scored], direction: str | None = None, group: str | None = None) -> list[Scored]:
    """The items of a direction and a group; None: of all."""
    return [item for item in scored if direction in (None, item.direction) and group in (None, item.group)]


def groups_of(scored: Sequence[Scored]) -> list[str]:
    """The groups, in the order in which they come."""
    return list(dict.fromkeys(item.group for item in scored))
