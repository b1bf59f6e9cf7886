"""The spike guard by itself: what it refuses, what it never refuses, and that it goes on from its state."""

from __future__ import annotations

import json
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from model.monitor.spikes import SpikeConfig, SpikeGuard

CONFIG = SpikeConfig(loss=2.0, grad_norm=4.0, window=8, patience=4)


def refused(guard: SpikeGuard, numbers: list[tuple[float, float]]) -> list[int]:
    return [i for i, (loss, norm) in enumerate(numbers) if guard.refuses(loss, norm) is not None]


def test_a_jump_of_either_is_refused_once_there_is_something_to_compare_with() -> None:
    usual = [(3.0, 1.0)] * 6
    assert refused(SpikeGuard(CONFIG), [(99.0, 99.0), *usual, (5.9, 3.9), (6.1, 1.0), (3.0, 4.1), (math.nan, 1.0)]) == [
        8,
        9,
    ]
    assert "grad_norm 4.1 is more than 4 times the median 1" in (with_history().refuses(3.0, 4.1) or "")
    assert refused(SpikeGuard(CONFIG.with_updates(loss=None)), [*usual, (60.0, 1.0)]) == []


def with_history() -> SpikeGuard:
    guard = SpikeGuard(CONFIG)
    refused(guard, [(3.0, 1.0)] * 6)
    return guard


def test_a_lasting_change_is_taken_for_usual_after_half_a_window() -> None:
    guard = with_history()
    assert len(refused(guard, [(30.0, 1.0)] * 20)) <= CONFIG.window // 2 + 1


@given(cut=st.integers(0, 40), seed=st.integers(0, 99))
def test_it_goes_on_from_its_state_as_if_nothing_had_been(cut: int, seed: int) -> None:
    rng = random.Random(seed)
    numbers = [(rng.lognormvariate(0, 1), rng.lognormvariate(0, 1)) for _ in range(40)]
    whole, first, second = (SpikeGuard(CONFIG) for _ in range(3))
    expected = refused(whole, numbers)
    found = refused(first, numbers[:cut])
    second.load(json.loads(json.dumps(first.state())))
    assert found + [cut + i for i in refused(second, numbers[cut:])] == expected
    assert second.state() == whole.state()
