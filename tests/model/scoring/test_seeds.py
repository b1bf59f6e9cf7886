"""Intervals over seeds and pairs hold the truth as often as they say, where intervals over pairs alone do not."""

import numpy as np
import pytest

from model.scoring.seeds import over_seeds

TRUTH = 0.05


def arms(rng: np.random.Generator, seeds: tuple[int, int], effect: float, shared: float) -> list[np.ndarray]:
    """Two arms on 120 pairs that are easy or hard for both; seeds move an arm by `effect`, a part of it alike in both arms."""
    easy, alike = rng.normal(0, 0.2, 120), rng.normal(0, 1, max(seeds))
    found = []
    for mean, number in zip((0.6 + TRUTH, 0.6), seeds, strict=True):
        moved = effect * (shared**0.5 * alike[:number] + (1 - shared) ** 0.5 * rng.normal(0, 1, number))
        found.append(mean + moved[:, None] + easy + rng.normal(0, 0.1, 120) + rng.normal(0, 0.3, (number, 120)))
    return found


@pytest.mark.parametrize(
    ("seeds", "effect", "shared", "least", "most"),
    [
        ((3, 3), 0.08, 0.0, 0.93, 0.97), ((2, 2), 0.08, 0.0, 0.93, 0.97), ((3, 2), 0.0, 0.0, 0.94, 0.99),
        ((3, 3), 0.08, 0.7, 0.95, 1.0), ((3, 10), 0.08, 0.0, 0.915, 0.955), ((2, 10), 0.08, 0.0, 0.87, 0.925),
    ],
)  # fmt: skip
def test_intervals_over_seeds_cover(
    seeds: tuple[int, int], effect: float, shared: float, least: float, most: float
) -> None:
    """Of 1,000 simulated comparisons; more than 95 % where seeds move nothing, or both arms alike, fewer where one arm has two
    seeds and the other many, as docs/scoring.md says."""
    rng = np.random.default_rng(11)
    inside = rejected = over_pairs = 0
    for _ in range(1000):
        mine, theirs = arms(rng, seeds, effect, shared)
        found = over_seeds(mine, theirs)
        inside += found.low <= TRUTH <= found.high
        rejected += over_seeds(mine - TRUTH, theirs).p < 0.05
        pairs = mine.mean(0) - theirs.mean(0)
        over_pairs += bool(abs(pairs.mean() - TRUTH) <= 1.98 * pairs.std(ddof=1) / np.sqrt(len(pairs)))
    assert least <= inside / 1000 <= most
    assert rejected == 1000 - inside, "p and the interval say the same"
    if effect and not shared:
        assert over_pairs / 1000 < 0.6, "pairs alone do not tell what other seeds would give"


def test_arms_may_be_exchanged_and_losses_have_seeds_alone() -> None:
    mine, theirs = arms(np.random.default_rng(1), (3, 2), 0.1, 0.0)
    one, other = over_seeds(mine, theirs), over_seeds(theirs, mine)
    assert (one.value, one.low, one.high, one.p) == pytest.approx((-other.value, -other.high, -other.low, other.p))
    # Welch's test of (1, 2, 4) and (7, 9), by hand: variances 7/9 and 1, 16/9 squared over (7/9)^2 / 2 + 1
    loss = over_seeds(np.array([[1.0], [2.0], [4.0]]), np.array([[7.0], [9.0]]))
    assert loss.value == pytest.approx(-17 / 3)
    assert loss.degrees == pytest.approx((16 / 9) ** 2 / ((7 / 9) ** 2 / 2 + 1))
    with pytest.raises(ValueError, match="two seeds of each arm"):
        over_seeds(mine, theirs[:1])
    with pytest.raises(ValueError, match="same pairs"):
        over_seeds(mine, theirs[:, :5])
    with pytest.raises(ValueError, match="one pair or more"):
        over_seeds(mine[:, :0], theirs[:, :0])
    with pytest.raises(ValueError, match="a number for each"):
        over_seeds(np.array([[1.0], [np.nan]]), np.array([[7.0], [9.0]]))


@pytest.mark.parametrize(("seeds", "degrees", "quantile"), [(2, 2, 4.3027), (3, 4, 2.7764), (16, 30, 2.0423)])
def test_the_interval_is_students_of_the_tables(seeds: int, degrees: int, quantile: float) -> None:
    mine = np.random.default_rng(0).normal(size=(seeds, 1))
    theirs = mine + 1  # as spread, so that the degrees of freedom of both arms add up
    found = over_seeds(mine, theirs)
    error = np.sqrt(2 * mine.var(ddof=1) / seeds)
    assert (found.value, found.degrees) == pytest.approx((-1, degrees))
    assert (found.high - found.low) / 2 == pytest.approx(quantile * error, rel=1e-4)
    at_its_end = over_seeds(mine, mine + quantile * error)
    assert at_its_end.p == pytest.approx(0.05, abs=1e-5)
