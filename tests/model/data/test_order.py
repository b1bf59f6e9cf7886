"""The order of samples, and every random draw, are pure functions."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.draws import generator
from model.data.order import Order, held_out

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


@given(counts=COUNTS, group=st.integers(1, 5), seed=st.integers(0, 3), epochs=st.integers(1, 3))
@settings(deadline=None)
def test_an_epoch_is_a_permutation_of_all_samples(counts: list[int], group: int, seed: int, epochs: int) -> None:
    order, total = Order(counts, seed, "speech", group), sum(counts)
    everything = {(shard, sample) for shard, count in enumerate(counts) for sample in range(count)}
    for epoch in range(epochs):
        found = [order.locate(index) for index in range(epoch * total, (epoch + 1) * total)]
        assert {(shard, sample) for _, shard, sample in found} == everything
        assert {place[0] for place in found} == {epoch}


@given(counts=COUNTS, group=st.integers(1, 5), indices=st.lists(st.integers(0, 200), min_size=1, max_size=20))
@settings(deadline=None)
def test_what_was_asked_before_does_not_matter(counts: list[int], group: int, indices: list[int]) -> None:
    """Random access: an order that has seen other indices, in any sequence, answers as a fresh one."""
    used = Order(counts, 1, "speech", group)
    for index in reversed(indices):
        used.locate(index)
    assert [used.locate(i) for i in indices] == [Order(counts, 1, "speech", group).locate(i) for i in indices]


@given(counts=COUNTS, group=st.integers(1, 5))
@settings(deadline=None)
def test_what_comes_is_known_a_group_ahead(counts: list[int], group: int) -> None:
    """The shards that are said to come are those of this group and the next, over the end of an epoch too."""
    order, total = Order(counts, 1, "speech", group), sum(counts)
    said = [order.ahead(index) for index in range(2 * total)]
    assert [number for number, _ in said] == sorted(number for number, _ in said)
    for index, (number, shards) in enumerate(said):
        soon = [i for i in range(index, 2 * total) if said[i][0] <= number + 1]
        assert {order.locate(i)[1] for i in soon} <= set(shards)
        assert len(shards) <= 2 * group


def test_neighbours_lie_in_few_shards() -> None:
    """A cache of one group's shards is enough: the order visits `group` shards before it goes on to others."""
    order = Order([10] * 40, 0, "speech", 4)
    for start in range(0, 400, 40):
        assert len({order.locate(index)[1] for index in range(start, start + 40)}) == 4


def test_epochs_seeds_and_sources_differ() -> None:
    def first(seed: int, name: str, epoch: int) -> list[tuple[int, int]]:
        return [Order([50, 50], seed, name, 2).locate(epoch * 100 + i)[1:] for i in range(100)]

    orders = [first(0, "speech", 0), first(0, "speech", 1), first(1, "speech", 0), first(0, "text", 0)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_draws_do_not_depend_on_global_state_or_on_the_process() -> None:
    """Neither Python's hash seed nor a global generator is involved, and none is moved."""
    code = (
        "from model.data.draws import generator; from model.data.order import Order;"
        "print([Order([30, 20], 7, 'a', 1).locate(i) for i in range(80)], generator(7, 'x', 3).random(4).tolist())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    before = (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    here = f"{[Order([30, 20], 7, 'a', 1).locate(i) for i in range(80)]} {generator(7, 'x', 3).random(4).tolist()}\n"
    assert here == runs[0]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


def test_the_draws_are_frozen() -> None:
    """A change of the derivation would change every run's data: it must be a decision."""
    assert generator(1, "spans", "speech", 0, "key").integers(0, 1000, 5).tolist() == FROZEN_DRAW
    assert [Order([3, 4, 2], 1, "speech", 2).locate(i) for i in range(9)] == FROZEN_ORDER


@given(total=st.integers(0, 300), fraction=st.floats(0, 0.9))
@settings(deadline=None)
def test_held_out_samples_are_few_distinct_and_leave_something(total: int, fraction: float) -> None:
    held = held_out(total, fraction, "data")
    assert len(set(held.tolist())) == len(held)
    assert len(held) < max(total, 1)
    assert (len(held) > 0) == (fraction > 0 and total > 1)
    assert held.tolist() == held_out(total, fraction, "data").tolist()


FROZEN_DRAW = [49, 236, 390, 352, 732]
FROZEN_ORDER = [(0, 2, 0), (0, 0, 1), (0, 0, 2), (0, 2, 1), (0, 0, 0), (0, 1, 1), (0, 1, 2), (0, 1, 3), (0, 1, 0)]
