"""How far a run is, how fast, and when it ends: from commits alone, each counted once, without jumps."""

import logging
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from jobs.monitoring import progress as module
from jobs.monitoring.estimate import StageProgress, UnitHours, count_codes, duration, estimate
from jobs.monitoring.progress import Load, Progress
from jobs.monitoring.watch import CommitWatch
from jobs.store.store import Store
from schemas.commit import Commit, Output

FINGERPRINTS = {"cheap": "c" * 64, "dear": "d" * 64}


def commit(stage: str, unit: str, busy: float = 1.0, rejects: dict[str, int] | None = None) -> Commit:
    """A commit of one row per reject and one that passed."""
    lost = sum((rejects or {}).values())
    return Commit(
        stage=stage,
        fingerprint=FINGERPRINTS[stage],
        partition=unit,
        inputs={},
        outputs={stage: Output(path="p", sha256="s", bytes=1, rows=1)},
        rows_in=1 + lost,
        rows_out=1,
        rows_rejected=lost,
        rejects_by_code=rejects or {},
        samples_in=0,
        samples_out=0,
        samples_rejected=0,
        seconds_busy=busy,
        provenance={"pool": f"{stage}-pool"},
    )


def stage(name: str, units: int, done: int, busy: float, **more: bool) -> StageProgress:
    """A stage of units of an hour."""
    return StageProgress(
        stage=name, units=units, hours=units, units_done=done, hours_done=done, busy_seconds=busy, **more
    )


def test_time_left_counts_work_and_not_hours() -> None:
    """The cheap stage is done, the dear one at half: by hours three quarters, by work hardly more than half."""
    now = estimate([stage("cheap", 10, 10, 10.0), stage("dear", 10, 5, 500.0)], recent_work=510, recent_seconds=255)
    assert now.share_done == pytest.approx(510 / 1010)
    assert now.seconds_left == pytest.approx(500 / 2)
    assert now.rate == pytest.approx(2 / 101 * 3600)  # two busy seconds a second, an hour of audio takes 101


def test_time_left_falls_steadily_whatever_stage_is_at_work() -> None:
    """Two workers that first do all of the cheap stage, then the dear one: the estimate falls by the time that passes."""
    cheap, dear = stage("cheap", 100, 1, 1.0), stage("dear", 100, 1, 100.0)
    lefts, clock = [], 50.5
    for step in range(198):
        which = cheap if cheap.units_done < 100 else dear
        clock += (1.0 if which is cheap else 100.0) / 2
        which.units_done, which.hours_done = which.units_done + 1, which.hours_done + 1
        which.busy_seconds += 1.0 if which is cheap else 100.0
        left = estimate([cheap, dear], cheap.busy_seconds + dear.busy_seconds, clock).seconds_left
        assert left is not None
        lefts.append(clock + left)
        assert step == 0 or abs(lefts[-1] - lefts[-2]) < 1e-6 * clock


def test_nothing_is_guessed_before_each_stage_was_measured() -> None:
    assert estimate([stage("cheap", 10, 5, 1.0), stage("dear", 10, 0, 0.0)], 1, 1).seconds_left is None
    packs = stage("packing", 10, 0, 0.0, is_awaited=False)
    assert estimate([stage("cheap", 10, 5, 1.0), packs], 1.0, 1.0).seconds_left == pytest.approx(1.0)
    last = stage("cheap", 1000, 999, 1.0)
    assert estimate([last], 1.0, 1.0).share_done == 0.99, "what is not through is not said to be"
    dear = [stage("dear", 10, 5, 100.0)]
    assert "nothing was finished in the last 10 min" in estimate(dear, 0.0, 600.0).left, "it was known a while ago"
    done = [stage("cheap", 10, 10, 1.0)]
    assert (estimate(done, 0, 0).seconds_left, estimate(done, 0, 0).share_done) == (0.0, 1.0)
    assert estimate(done, 0, 0).left == "nothing left"


def test_a_partition_without_audio_is_still_something_left() -> None:
    """All of its files are unreadable."""
    almost = StageProgress(stage="recordings", units=2, hours=1.0, units_done=1, hours_done=1.0, busy_seconds=1.0)
    assert estimate([almost], 1.0, 1.0).left == "nearly through"


def test_rejects_of_codes_that_are_not_named_are_counted() -> None:
    rejects = Counter({"too_short": 3, "silent": 2, "missing": 1, "timeout": 1})
    assert count_codes(rejects, 2) == "3 too_short, 2 silent, 2 of other codes"
    assert count_codes(rejects, 4) == "3 too_short, 2 silent, 1 missing, 1 timeout"
    assert count_codes(Counter(), 4) == ""


def test_durations_as_a_person_says_them() -> None:
    assert [duration(seconds) for seconds in (4.4, 89, 90, 3600, 12_000, 200_000)] == [
        "4 s",
        "89 s",
        "2 min",
        "60 min",
        "3 h 20 min",
        "2 d 7 h",
    ]


def test_hours_of_units_by_name() -> None:
    hours = UnitHours(np.asarray(["b", "a"], "S16"), np.asarray([2.0, 1.0]))
    assert [hours.of(name) for name in ("a", "b", "c", "0")] == [1.0, 2.0, 0.0, 0.0]
    assert UnitHours(np.asarray([], "S16"), np.asarray([])).of("a") == 0.0


def test_each_commit_is_counted_once_however_it_is_heard_of(tmp_path: Path) -> None:
    """From the store, from a worker, from both in either order, and across the driver's gathering of files into parts."""
    store = Store(str(tmp_path))
    store.publish(commit("cheap", "old"))
    watch = CommitWatch(store, FINGERPRINTS)
    assert not list(watch.poll())
    store.publish(commit("cheap", "a"))
    assert [found.partition for found in watch.poll()] == ["a"]
    assert not watch.heard(commit("cheap", "a"))
    assert watch.heard(commit("cheap", "b"))
    assert not list(watch.poll())  # its file comes a moment later, as on a store that lists late
    store.publish(commit("cheap", "b"))
    assert not list(watch.poll())
    for unit in ("a", "b", "old"):
        store.remove(Store.commit_path("cheap", FINGERPRINTS["cheap"], unit))
    assert not list(watch.poll())
    assert not watch._known["cheap"], "names of gathered files are forgotten"


def make(tmp_path: Path, loads: Mapping[str, Load] = MappingProxyType({}), **options: float) -> tuple[Store, Progress]:
    """A run of two stages with two units each, of half an hour, watched without a terminal."""
    store = Store(str(tmp_path))
    units, hours = np.asarray(["a", "b"], "S16"), np.asarray([0.5, 0.5])
    shown = Progress(
        [StageProgress(stage=name, units=2, hours=1.0) for name in FINGERPRINTS],
        dict.fromkeys(FINGERPRINTS, UnitHours(units, hours)),
        lambda: dict(loads),
        CommitWatch(store, FINGERPRINTS),
        bar=False,
        **options,
    )
    return store, shown


def test_a_line_says_done_rate_rejects_busy_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy is who has work now, not what was committed: a partition of half an hour is at work for minutes before it is."""
    loads: dict[str, Load] = {}
    store, shown = make(tmp_path, loads)
    assert "nothing is committed yet: workers are starting" in shown.line()
    loads |= {"cheap-pool": Load(workers=1, working=1), "dear-pool": Load(workers=2, working=2)}
    assert "nothing is committed yet: 3 workers are at their first partitions" in shown.line()
    shown.stages["cheap"].units_done = 1  # of the run before
    assert "nothing new is committed yet: 3 workers" in shown.line()
    shown.stages["cheap"].units_done = 0
    shown._look()
    loads["cheap-pool"] = Load(workers=1, working=0)
    shown._look()
    store.publish(commit("cheap", "a", 0.5, {"too_short": 2}))
    shown.heard([commit("cheap", "a", 0.5, {"too_short": 2})])
    assert "time left not known yet: first each stage must finish a partition" in shown.line()
    shown.heard([commit("dear", "a", 1.5)])
    now = time.monotonic()
    shown._since = now - 1.0
    with monkeypatch.context() as patch:
        patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))  # which does not go on meanwhile
        line = shown.line()
    assert line.startswith("50% done: cheap 1/2, dear 1/2; ")
    assert "rejected 2 too_short" in line
    assert "busy cheap-pool 50% of 1, dear-pool 100% of 2" in line
    assert line.endswith("1 s left")
    loads["cheap-pool"] = Load(workers=0, working=0)
    shown._look()
    assert "busy cheap-pool (no worker just now), dear-pool 100% of 2" in shown.line()
    assert "h of audio/h" in line


def test_a_run_that_is_ended_before_its_first_commit_does_not_say_that_workers_are_starting(tmp_path: Path) -> None:
    loads = {"cheap-pool": Load(workers=2, working=2)}
    _, shown = make(tmp_path, loads)
    shown._look()
    loads.clear()
    assert "nothing is committed yet: no worker is left" in shown.line()


def test_without_a_terminal_lines_come_by_themselves_and_show_what_no_worker_brought_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.POLL_SECONDS, True, 0.01)
    store, shown = make(tmp_path, line_seconds=0.05)
    with caplog.at_level(logging.INFO, "lst"), shown:
        store.publish(commit("cheap", "a"))
        deadline = time.monotonic() + 10
        while "cheap 1/2" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
    assert "cheap 1/2, dear 0/2" in caplog.text
