"""The timeline of pools says what the commits' receipts say: nothing added, nothing lost."""

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from jobs.monitoring import work
from jobs.reporting.timeline import BINS, GAP, Timeline, _runs, busy_of, draw, gather_timeline, peak_of
from tests.jobs.growth import growing


def test_busy_time_is_kept_whatever_the_bins() -> None:
    """The sum over bins is the sum of the intervals, and each bin is what a naive count gives."""
    dice = np.random.default_rng(0)
    begun = dice.uniform(0, 90, 200)
    ended = np.minimum(begun + dice.exponential(3, 200), 100.0)
    for bins in (1, 7, 480):
        busy = busy_of(begun, ended, 100.0, bins)
        assert busy.sum() * 100 / bins == pytest.approx((ended - begun).sum())
        edges = np.linspace(0, 100, bins + 1)
        naive = [
            np.clip(np.minimum(ended, right) - np.maximum(begun, left), 0, None).sum() * bins / 100
            for left, right in pairwise(edges.tolist())
        ]
        assert busy == pytest.approx(np.asarray(naive), abs=1e-9)


def test_the_most_that_were_busy_at_once() -> None:
    assert peak_of(np.asarray([0.0, 1.0, 2.0]), np.asarray([1.0, 2.0, 3.0])) == 1
    assert peak_of(np.asarray([0.0, 0.5, 2.0]), np.asarray([1.0, 2.5, 3.0])) == 2


def test_long_pauses_are_left_out_and_short_ones_stay() -> None:
    begun = np.asarray([1000.0, 1000.0 + 50 + GAP / 2, 9000.0])
    ended = begun + 50
    runs, shifts = _runs(begun, ended)
    assert runs == [(1000.0, 1100.0 + GAP / 2), (9000.0, 9050.0)]
    assert shifts.tolist() == [1000.0, 9000.0 - (100 + GAP / 2)]


def test_a_run_shows_its_pools_and_escapes_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    growing.use_counting_stages(monkeypatch)
    source = growing.GrowingSource(tmp_path / "audio", random.Random(1))
    for _ in range(9):
        source.add()
    source.write_manifest()
    monkeypatch.setattr(work, "_pool", "<line>")
    plan = growing.run(growing.make_spec(str(tmp_path / "audio"), str(tmp_path / "out"), tmp_path / "centroids"))
    timeline = gather_timeline(plan)
    (row,) = timeline.rows
    assert (row.pool, row.peak, timeline.silent, len(timeline.runs)) == ("<line>", 1, 0, 1)
    busy = sum(commit.seconds_busy for stage in plan.stages for commit in plan.commits(stage))
    spent = row.busy.sum() * timeline.seconds / BINS
    assert busy - 0.1 <= spent <= timeline.seconds + 1e-6, "inside the stages and with their tables"
    assert 0 < row.share <= 1
    page = draw(timeline)
    assert "&lt;line&gt;" in page
    assert "<line>" not in page


def test_commits_of_earlier_versions_are_counted_and_not_drawn() -> None:
    assert "do not say when" in draw(Timeline(rows=[], runs=[], seconds=0.0, silent=3))
