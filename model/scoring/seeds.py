"""What other seeds would give: the difference of two arms over training seeds and pairs of stories, both taken as drawn.

An interval over pairs alone (`accuracy.bootstrap`) holds for the seeds at hand. Resampling seeds too does not mend that: of
three seeds there are ten different samples. Here the variance of the seeds and that of the pairs are estimated apart (every
seed scores every pair) and the interval is Student's, with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946):
wide where seeds are few, as it must be.

Shape suffixes: S seeds, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from model.scoring.accuracy import CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class SeedInterval:
    """A difference of means, where it lies with 95 % for other seeds and pairs, and p that there is none."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided."""
    degrees: float
    """Of freedom: near the number of seeds less two where seeds differ most, near that of pairs where they agree."""


def over_seeds(mine_SP: np.ndarray, theirs_SP: np.ndarray) -> SeedInterval:
    """The mean of `mine_SP` less that of `theirs_SP`: seeds of two arms, as many of each as there are, on the same pairs. With
    one value a seed (a loss) seeds alone vary.

    The seeds of two arms are taken as independent. Where equal seeds share an order of documents and both arms profit from it
    alike, the interval is wider than it need be. Of two seeds against ten it is too narrow (docs/scoring.md).

    Raises:
        ValueError: an arm has fewer than two seeds, the arms are not of the same pairs, there are none, or one has no number.
    """
    arms = [mine_SP, theirs_SP]
    if any(arm.ndim != 2 or len(arm) < 2 for arm in arms) or mine_SP.shape[1] != theirs_SP.shape[1]:
        raise ValueError("what other seeds would give takes two seeds of each arm or more, all on the same pairs")
    if any(arm.shape[1] == 0 or not np.isfinite(arm).all() for arm in arms):
        raise ValueError("what other seeds would give takes one pair or more, and a number for each seed of each pair")
    pairs = mine_SP.shape[1]
    means_P = mine_SP.mean(0) - theirs_SP.mean(0)
    between = [arm.mean(1).var(ddof=1) / len(arm) for arm in arms]
    rest = sum(
        _residual(arm) / arm.size for arm in arms
    )  # is in the variance of the seeds' means and in that of the pairs'
    over_pairs = means_P.var(ddof=1) / pairs if pairs > 1 else 0.0
    variance = float(max(sum(between) + over_pairs - rest, sum(between), over_pairs))
    parts = [(part, len(arm) - 1) for part, arm in zip(between, arms, strict=True)] + [(over_pairs, max(1, pairs - 1))]
    spread = sum(part**2 / degrees for part, degrees in parts)
    degrees = float(variance**2 / spread) if spread > 0 else 1.0
    value, error = float(means_P.mean()), float(np.sqrt(variance))
    reach = float(student.ppf((1 + CONFIDENCE) / 2, degrees)) * error
    p = float(2 * student.sf(abs(value) / error, degrees)) if error > 0 else float(value == 0)
    return SeedInterval(value=value, low=value - reach, high=value + reach, p=p, degrees=degrees)


def _residual(arm_SP: np.ndarray) -> float:
    """Variance of what neither the seed nor the pair explains; of one value a seed, none."""
    if arm_SP.shape[1] == 1:
        return 0.0
    rest_SP = arm_SP - arm_SP.mean(0) - arm_SP.mean(1, keepdims=True) + arm_SP.mean()
    seeds, pairs = arm_SP.shape
    return float((rest_SP**2).sum() / ((seeds - 1) * (pairs - 1)))
