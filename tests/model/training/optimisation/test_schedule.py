"""Schedules: pure functions of step and progress."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.config import BudgetConfig
from model.training.optimisation.schedule import CosineSchedule, WsdSchedule

WARMUP, RATIO = st.integers(0, 50), st.floats(0, 1)
SCHEDULES = st.one_of(
    st.builds(CosineSchedule, kind=st.just("cosine"), warmup_steps=WARMUP, min_ratio=RATIO),
    st.builds(WsdSchedule, kind=st.just("wsd"), warmup_steps=WARMUP, decay_share=st.floats(0.01, 1), min_ratio=RATIO),
)


@given(schedule=SCHEDULES, step=st.integers(0, 100), progress=st.floats(-0.5, 2))
@settings(deadline=None)
def test_factors_are_between_nothing_and_the_peak(
    schedule: CosineSchedule | WsdSchedule, step: int, progress: float
) -> None:
    assert 0 <= schedule.factor(step, progress) <= 1 + 1e-12


@given(schedule=SCHEDULES, a=st.floats(0, 1), b=st.floats(0, 1))
@settings(deadline=None)
def test_after_the_warm_up_it_never_rises_and_ends_at_the_minimum(
    schedule: CosineSchedule | WsdSchedule, a: float, b: float
) -> None:
    low, high = sorted((a, b))
    assert schedule.factor(1000, low) >= schedule.factor(1000, high) - 1e-12
    assert schedule.factor(1000, 1.0) == pytest.approx(schedule.min_ratio, abs=1e-12)
    assert schedule.factor(1000, 0.0) == 1


def test_known_values() -> None:
    cosine = CosineSchedule(kind="cosine", warmup_steps=10, min_ratio=0.1)
    assert [cosine.factor(step, 0.0) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1, 1])
    assert cosine.factor(99, 0.5) == pytest.approx(0.55)
    wsd = WsdSchedule(kind="wsd", warmup_steps=0, decay_share=0.2, min_ratio=0.0)
    assert [wsd.factor(99, at) for at in (0.5, 0.8, 0.9, 1.0)] == pytest.approx([1, 1, 0.5, 0])


def test_a_longer_budget_is_the_same_run_before_the_decay() -> None:
    """WSD: what a run resumed with a larger budget did before is what a run with that budget would have done."""
    wsd = WsdSchedule(kind="wsd", warmup_steps=5, decay_share=0.1, min_ratio=0.0)
    short, long = BudgetConfig(steps=100), BudgetConfig(steps=1000)
    for step in range(90):
        consumed = {"steps": float(step)}
        assert wsd.factor(step, short.progress(consumed)) == wsd.factor(step, long.progress(consumed))


def test_progress_is_that_of_the_limit_met_first() -> None:
    budget = BudgetConfig(steps=10, flops=1e6, seconds=5)
    assert budget.progress({"steps": 2.0, "flops": 7e5}) == pytest.approx(0.7)
    assert budget.limits() == {"steps": 10.0, "flops": 1e6}
