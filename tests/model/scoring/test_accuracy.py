"""Measures of scored tasks: known for hand-made scores, honest about clusters."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from model.scoring.accuracy import (
    accuracy,
    bootstrap,
    holm,
    mean_margin,
    preference,
    preference_difference,
    sign_test,
    twins_of,
)
from model.scoring.scorer import EndingScore, Scored
from schemas.config import ConfigError


def item(pair: int, side: int, log_probs: tuple[float, float], **other: str) -> Scored:
    """One of two twins: side 0 is right with ending 0, side 1 with ending 1."""
    endings = tuple(
        EndingScore(log_prob=value, elements=4, length=1.0, joint=value, joint_elements=9) for value in log_probs
    )
    fields = {
        "id": f"{pair}-{side}",
        "group": "g",
        "direction": "S->S",
        "cluster": f"pair-{pair}",
        "choice": "c",
        **other,
    }
    return Scored(answer=side, endings=endings, **fields)  # type: ignore[arg-type]


def test_what_an_ending_costs_by_itself_hides_accuracy_and_not_preference() -> None:
    """Ending 0 is 50 nats cheaper for every prompt, and each prompt makes its own ending one nat likelier."""
    scored = [item(pair, side, (-10.0 + (side == 0), -60.0 + (side == 1))) for pair in range(8) for side in range(2)]
    assert accuracy(scored, "sum").value == 0.5
    twins = twins_of(scored)
    assert [pair.margin for pair in twins] == [2.0] * 8
    assert preference(twins).value == 1.0
    assert mean_margin(twins).value == 1.0
    assert preference(twins_of([replace(s, answer=1 - s.answer) for s in scored])).value == 0.0


def test_only_twins_make_a_preference() -> None:
    """Other endings, another cluster, the same answer, another direction: no twins."""
    first = item(0, 0, (-1.0, -2.0))
    others = [
        item(0, 1, (-2.0, -1.0), choice="d"),
        item(0, 1, (-2.0, -1.0), cluster="elsewhere"),
        replace(item(0, 1, (-2.0, -1.0)), answer=0),
        item(0, 1, (-2.0, -1.0), direction="T->T"),
    ]
    assert [twins_of([first, other]) for other in others] == [[], [], [], []]
    assert len(twins_of([first, item(0, 1, (-2.0, -1.0))])) == 1


def test_twins_do_not_depend_on_the_order_of_items() -> None:
    """Two prompts with one answer and one with the other make one pair of twins, in whichever order they stand."""
    one, other, swapped = (item(0, side, (-1.0, -2.0), id=f"{n}") for n, side in enumerate((0, 0, 1)))
    for order in permutations((one, other, swapped)):
        assert len(twins_of(order)) == 1, [scored.id for scored in order]
    assert len(twins_of([one, other, swapped, replace(swapped, id="3")])) == 2


def test_clusters_count_and_items_do_not() -> None:
    """Each value told ten times over in one cluster makes no interval narrower."""
    values = [float(v) for v in np.random.default_rng(0).random(30) < 0.6]
    once = bootstrap(values)
    often = bootstrap([v for v in values for _ in range(10)], [str(n) for n in range(30) for _ in range(10)])
    alone = bootstrap([v for v in values for _ in range(10)])
    assert (often.clusters, often.items) == (30, 300)
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert alone.high - alone.low < 0.5 * (often.high - often.low)


def test_all_right_is_not_certain() -> None:
    """Where nothing varies the interval is the exact one of as many clusters (Clopper and Pearson)."""
    found = bootstrap([1.0] * 20, bounds=(0.0, 1.0))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.8316, abs=1e-3)


def test_one_of_every_pair_is_not_certain() -> None:
    """One ending is chosen for both prompts of all pairs, or two models agree everywhere: 16.8 % of all pairs may still be
    otherwise, by as much as there is to the ends."""
    pairs = [float(side == 0) for _ in range(20) for side in range(2)]
    names = [str(n) for n in range(20) for _ in range(2)]
    found = bootstrap(pairs, names, bounds=(0.0, 1.0))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5 - 0.0842, 0.5 + 0.0842), abs=1e-4)
    agreed = bootstrap([0.0] * 40, names, bounds=(-1.0, 1.0))
    assert (agreed.value, agreed.low, agreed.high) == pytest.approx((0.0, -0.1684, 0.1684), abs=1e-4)
    thirds = bootstrap([1 / 3, 0.0, 2 / 3, 1 / 3], ["a", "b", "b", "c"], bounds=(0.0, 1.0))
    assert thirds.low < 1 / 3 < thirds.high, "sums in another order are the same number"


def test_one_cluster_says_nothing_of_others() -> None:
    """Twelve items of one story, nine of them right: no resampling differs, and 0.75 is not certain."""
    found = bootstrap([1.0] * 9 + [0.0] * 3, ["story"] * 12, bounds=(0.0, 1.0))
    assert (found.value, found.low, found.high) == (0.75, 0.0, 1.0)
    one = [item(0, side, (-1.0 - side, -2.0 + side)) for side in range(2)]
    twins = twins_of(one)
    paired = preference_difference(twins, twins)
    assert (paired.low, paired.high) == (-1.0, 1.0)


def test_intervals_of_clusters_cover() -> None:
    """Of simulated clustered items 93 to 97 % of intervals hold the truth (1,000 draws of 60 pairs)."""
    rng = np.random.default_rng(3)
    truth, inside, names = 0.6, 0, [str(n) for n in range(60) for _ in range(2)]
    for trial in range(1000):
        easy = rng.beta(truth, 1 - truth, size=60)  # correlation of a half within a pair
        points = (rng.random((60, 2)) < easy[:, None]).astype(float).ravel().tolist()
        interval = bootstrap(points, names, seed=trial, bounds=(0.0, 1.0))
        inside += interval.low <= truth <= interval.high
    assert 0.93 <= inside / 1000 <= 0.97


def test_sign_test_is_exact() -> None:
    """Nine of ten: 2 * (1 + 10) / 1024; what is at chance has no vote, a cluster has one."""
    assert sign_test([1.0] * 9 + [-1.0] + [0.0] * 5) == pytest.approx(22 / 1024)
    assert sign_test([1.0] * 90 + [-1.0] * 10, [str(n // 10) for n in range(100)]) == pytest.approx(22 / 1024)
    assert sign_test([0.5, 0.5], chance=0.5) == 1.0


def test_holm_keeps_the_order_and_never_helps() -> None:
    """Worked by hand: 3 * 0.01, 2 * 0.02, then never less than what came before."""
    assert holm([0.02, 0.01, 0.04]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_differences_are_of_the_same_twins() -> None:
    scored = [item(pair, side, (-1.0 - side, -2.0 + side)) for pair in range(4) for side in range(2)]
    twins = twins_of(scored)
    same = preference_difference(twins, twins)
    assert same.value == 0.0
    assert same.low == -same.high < 0.0, "four pairs on which two agree do not say that they agree on all"
    with pytest.raises(ConfigError, match="same twins"):
        preference_difference(twins, twins[:-1])
