"""What scored tasks say: accuracy and twin preference with intervals, exact tests, paired comparison.

Items that share a story are not independent, so everything here counts clusters (`TaskItem.cluster`): intervals resample them
whole, tests give each one vote. docs/scoring.md says which measure sees what.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from model.data.draws import generator
from model.scoring.scorer import Normalisation, Scored
from schemas.config import ConfigError

CONFIDENCE = 0.95
RESAMPLES = 10_000
"""With so many, another seed moves an end of the interval by 1.4 % of its distance from the mean."""
ALIKE = 1e-12
"""Means of clusters that differ by less are the same number, summed in another order."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceInterval:
    """A mean over items, and where it lies in 95 % of resamplings of their clusters."""

    value: float
    low: float
    high: float
    items: int
    clusters: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Two items with the same two endings and the answer swapped, scored in one direction."""

    group: str
    cluster: str
    margin: float
    """Nats: lp(e1|p1) + lp(e2|p2) - lp(e1|p2) - lp(e2|p1). What an ending costs by itself is in both terms and cancels."""

    @property
    def point(self) -> float:
        """1 where each prompt likes its own ending better than the other prompt does, 0.5 at a tie."""
        return 0.5 if self.margin == 0 else float(self.margin > 0)


def accuracy(scored: Sequence[Scored], normalisation: Normalisation, seed: int = 0) -> ConfidenceInterval:
    """Share of items whose right ending is the likeliest; of endings that tie, each counts its share.

    Pass the items of one direction (and group): `select` picks them.

    Raises:
        ValueError: there are none.
    """
    points = [item.point(normalisation) for item in scored]
    return bootstrap(points, [item.cluster for item in scored], seed, bounds=(0.0, 1.0))


def preference(twins: Sequence[Twins], seed: int = 0) -> ConfidenceInterval:
    """Share of twins whose margin is positive. Chance is exactly one half, whatever the endings cost by themselves.

    Raises:
        ValueError: there are none.
    """
    return bootstrap([pair.point for pair in twins], [pair.cluster for pair in twins], seed, bounds=(0.0, 1.0))


def mean_margin(twins: Sequence[Twins], seed: int = 0) -> ConfidenceInterval:
    """Mean margin per ending, in nats: how much the prompt tells of an ending. Chance is 0.

    Raises:
        ValueError: there are none.
    """
    return bootstrap([pair.margin / 2 for pair in twins], [pair.cluster for pair in twins], seed)


def twins_of(scored: Sequence[Scored]) -> list[Twins]:
    """The twins among the items, direction by direction: two of a cluster with the same two endings and the answer swapped. Each
    item has one twin at most: of several prompts with one answer the first meets the first of those with the other."""
    waiting: dict[tuple[str, str, str, int], list[Scored]] = {}
    found = []
    for item in scored:
        if len(item.endings) != 2 or not item.choice:
            continue
        key = (item.direction, item.cluster, item.choice)
        others = waiting.get((*key, 1 - item.answer))
        if not others:
            waiting.setdefault((*key, item.answer), []).append(item)
        else:
            other = others.pop(0)
            margin = sum(s.endings[s.answer].log_prob - s.endings[1 - s.answer].log_prob for s in (other, item))
            found.append(Twins(group=item.group, cluster=item.cluster, margin=round(margin, 6)))
    return found


def difference(
    scored: Sequence[Scored], other: Sequence[Scored], normalisation: Normalisation, seed: int = 0
) -> ConfidenceInterval:
    """Accuracy of `scored` less that of `other` on the same items: resampled together, so that what is hard for both cancels.

    Raises:
        ConfigError: they are not scores of the same items.
    """
    theirs = {(item.id, item.direction): item for item in other}
    if len(theirs) != len(scored) or any((item.id, item.direction) not in theirs for item in scored):
        raise ConfigError("the two sets of scores are not of the same items: score both checkpoints on one task file")
    pairs = [(item, theirs[item.id, item.direction]) for item in scored]
    values = [a.point(normalisation) - b.point(normalisation) for a, b in pairs]
    return bootstrap(values, [item.cluster for item in scored], seed, bounds=(-1.0, 1.0))


def preference_difference(twins: Sequence[Twins], other: Sequence[Twins], seed: int = 0) -> ConfidenceInterval:
    """Preference of `twins` less that of `other`, the same twins in the same order.

    Raises:
        ConfigError: they are not of the same twins.
    """
    check_same_twins(twins, other)
    values = [a.point - b.point for a, b in zip(twins, other, strict=True)]
    return bootstrap(values, [pair.cluster for pair in twins], seed, bounds=(-1.0, 1.0))


def check_same_twins(twins: Sequence[Twins], other: Sequence[Twins]) -> None:
    """
    Raises:
        ConfigError: the two are not of the same twins in the same order.
    """
    if [(p.group, p.cluster) for p in twins] != [(p.group, p.cluster) for p in other]:
        raise ConfigError("the two sets of scores are not of the same twins: score both checkpoints on one task file")


def bootstrap(
    values: Sequence[float],
    clusters: Sequence[str] | None = None,
    seed: int = 0,
    bounds: tuple[float, float] | None = None,
) -> ConfidenceInterval:
    """The mean of `values` and its interval: clusters drawn with replacement, percentiles widened for few clusters.

    Plain percentiles are too narrow where clusters are few, as a normal interval is against Student's; Hesterberg's expanded
    percentiles (arXiv 1411.5279, section 3.3) mend that. Where all clusters are alike no resampling can say how sure that is:
    of several the ends are then the exact ones of so many clusters within `bounds`. One cluster alone has all of `bounds`, but
    for the end at which all its values lie.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("an interval needs at least one item")
    sums, counts = _by_cluster(values, clusters)
    total, number = float(sums.sum() / counts.sum()), len(sums)
    if bounds is not None and number == 1 and total not in bounds:
        low, high = bounds  # one cluster says nothing of others
    elif bounds is not None and np.ptp(sums / counts) < ALIKE:
        # Where all is right, all wrong, or one of every pair, every resample says so, of three clusters as of three hundred. No
        # more than this share of all clusters are otherwise (Clopper and Pearson), and those at the other end at most.
        share = 1 - ((1 - CONFIDENCE) / 2) ** (1 / number)
        low, high = (total + share * (end - total) for end in bounds)
    else:
        means = _resampled(sums, counts, seed)
        edge = _expanded_edge(number)
        low, high = np.quantile(means, [edge, 1 - edge]).tolist()
    return ConfidenceInterval(value=total, low=low, high=high, items=len(values), clusters=number)


def _by_cluster(values: Sequence[float], clusters: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each cluster."""
    if clusters is None:
        return np.asarray(values, dtype=np.float64), np.ones(len(values))
    place = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    where = [place[name] for name in clusters]
    return np.bincount(where, weights=values), np.bincount(where).astype(np.float64)


def _resampled(sums: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Means of RESAMPLES draws of as many clusters. Drawing with replacement is drawing, from a multinomial, how often each
    distinct cluster occurs: of points there are few."""
    kinds, often = np.unique(np.stack([sums, counts]), axis=1, return_counts=True)
    number = len(sums)
    rng = generator(seed, "bootstrap", number)
    means = []
    for _ in range(10):  # a tenth at a time: where every cluster is another, draws are large
        draws = rng.multinomial(number, often / number, size=RESAMPLES // 10)
        means.append((draws @ kinds[0]) / (draws @ kinds[1]))
    return np.concatenate(means)


def _expanded_edge(clusters: int) -> float:
    """The percentile whose normal quantile is Student's, widened by sqrt(n / (n - 1))."""
    if clusters < 2:
        return 0.0
    z, degrees = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), clusters - 1
    # Student's quantile by Fisher's expansion: four digits from five degrees of freedom on
    student = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    return NormalDist().cdf(-student * math.sqrt(clusters / degrees))


def sign_test(values: Sequence[float], clusters: Sequence[str] | None = None, chance: float = 0.0) -> float:
    """Exact two-sided p that clusters lie above and below `chance` equally often; those at it are left out.

    Each cluster has one vote: its mean. For accuracies between two endings `chance` is 0.5, for margins and differences 0.
    """
    sums, counts = _by_cluster(values, clusters)
    votes = np.sign(np.round(sums / counts - chance, 12))
    above, below = int((votes > 0).sum()), int((votes < 0).sum())
    number = above + below
    tail = sum(math.comb(number, k) for k in range(min(above, below) + 1))
    return float(min(1.0, 2 * tail / 2**number))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p: rejecting those below 0.05 is wrong about any of them in at most 5 % of cases."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def select(scored: Sequence[Scored], direction: str | None = None, group: str | None = None) -> list[Scored]:
    """The items of a direction and a group; None: of all."""
    return [item for item in scored if direction in (None, item.direction) and group in (None, item.group)]


def groups_of(scored: Sequence[Scored]) -> list[str]:
    """The groups, in the order in which they come."""
    return list(dict.fromkeys(item.group for item in scored))
