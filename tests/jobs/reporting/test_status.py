"""`lst status` tells the state of an output from the log of commits and the lease alone, whatever state that is."""

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from jobs.reporting import status
from jobs.reporting.state import format_state, read_state
from jobs.reporting.status import main
from jobs.runtime.drive import prepare, run_in_process
from jobs.runtime.plan import Plan, make_plan, refresh
from jobs.store import commit_folders
from jobs.store.lease import Lease
from jobs.store.store import Store
from schemas.spec import STAGES, PipelineSpec
from tests.jobs.growth import growing


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineSpec:
    """A corpus of twenty files and stages that cost nothing."""
    growing.use_counting_stages(monkeypatch)
    source = growing.GrowingSource(tmp_path / "audio", random.Random(1))
    for _ in range(20):
        source.add()
    source.write_manifest()
    return growing.make_spec(str(tmp_path / "audio"), str(tmp_path / "out"), tmp_path / "centroids")


@pytest.fixture
def half(spec: PipelineSpec) -> Plan:
    """The same after all stages but units, patches and shards."""
    plan = make_plan(spec)
    prepare(plan)
    run_in_process(plan, ["recordings", "segments", "transcripts", "words"])
    refresh(plan)
    return plan


def without_sources(spec: PipelineSpec) -> None:
    """Another machine: neither audio nor models are there."""
    shutil.rmtree(spec.source.uri)
    shutil.rmtree(spec.stages.units.centroids)


def test_nothing_was_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    assert "nothing was begun here yet" in capsys.readouterr().out
    assert main([str(tmp_path / "typo")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "looking writes nothing"


def test_a_run_that_only_just_began(tmp_path: Path) -> None:
    lease = Lease(Store(str(tmp_path)), "tokenize_audio --config x.yaml")
    lease.acquire()
    state = read_state(str(tmp_path))
    lease.release()
    assert (state.state, state.stages) == ("running", [])
    assert "it lists the source" in format_state(state)


def test_an_unfinished_output_says_how_far_it_is(half: Plan) -> None:
    without_sources(half.spec)
    state = read_state(half.spec.output)
    done = {stage.stage: (stage.units_done, stage.units) for stage in state.stages}
    count = len(half.partitions)
    assert count > 3
    assert done["words"] == done["recordings"] == (count, count)
    assert done["units"] == done["patches"] == (0, count)
    assert done["shards"] == (0, len(half.group_cuts) - 1)
    assert state.state == "stopped"
    assert "units" not in state.recent, "that no commit came lately does not say that nobody works"
    assert [line.split()[4:6] for line in format_state(state).splitlines() if line.startswith("units")] == [["-", "-"]]
    rejected = {stage.stage: sum(stage.rejects.values()) for stage in state.stages}
    assert rejected["recordings"] == sum(commit.rows_rejected for commit in half.commits("recordings")) > 0
    assert "not running; not finished" in format_state(state)


def test_who_owns_it_and_whether_it_lives(half: Plan) -> None:
    lease = Lease(half.store, "tokenize_audio --config x.yaml")
    lease.acquire()
    assert read_state(half.spec.output).state == "running"
    lease.release()
    assert read_state(half.spec.output).state == "stopped"
    path = next((Path(half.spec.output) / "control").glob("lease-*.json"))
    told = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(told | {"released": False, "host": "gone", "heartbeat": time.time() - 500}))
    state = read_state(half.spec.output)
    assert state.state == "dead"
    assert state.heartbeat_seconds == pytest.approx(500, abs=5)
    assert "its owner died" in format_state(state)
    assert "process" in format_state(state)
    assert "on gone" in format_state(state)


def test_during_a_run_counts_grow_and_match_the_commits(spec: PipelineSpec) -> None:
    """Looked at again and again, also between windows, when the driver gathers commits into parts."""
    plan = make_plan(spec)
    prepare(plan)
    seen: list[int] = []

    def tell(stage: str, number: int) -> None:
        if number % 3 == 0:
            seen.append(sum(item.units_done for item in read_state(spec.output).stages))

    run_in_process(plan, STAGES, tell)
    assert seen == sorted(seen)
    assert len(set(seen)) > 10
    state = read_state(spec.output)
    assert state.state == "finished"
    assert all(item.units_done == item.units for item in state.stages)
    assert state.estimate.seconds_left == 0


def test_commits_that_are_gathered_while_they_are_read_are_not_missed(
    spec: PipelineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.runtime.drive.GATHER", 1000)  # files stay single, until this test gathers them
    half = make_plan(spec)
    prepare(half)
    run_in_process(half, ["recordings", "segments"])
    wanted = [stage.units_done for stage in read_state(half.spec.output).stages]
    honest, looks = commit_folders.list_commits, iter(range(99))

    def list_and_gather(store: object) -> dict[str, list[str]]:
        listed: dict[str, list[str]] = honest(store)  # type: ignore[arg-type]
        if next(looks) == 0:  # between the listing and the reading
            for log in half.logs.values():
                log.gather(1)
        return listed

    monkeypatch.setattr(commit_folders, "list_commits", list_and_gather)
    assert [stage.units_done for stage in read_state(half.spec.output).stages] == wanted


def test_the_present_rate_is_that_of_the_last_minutes(half: Plan) -> None:
    state = read_state(half.spec.output)
    assert set(state.recent) == {"recordings", "segments", "transcripts", "words"}
    assert state.recent["words"].hours_per_hour > 0
    later = read_state(half.spec.output, now=time.time() + 3600)
    assert later.recent["words"] == state.recent["words"], "of a run that stands still, the pace that it had"


@pytest.fixture
def remote(half: Plan) -> Iterator[str]:
    """The output on another kind of store."""
    files = fsspec.filesystem("memory")
    for path in Path(half.spec.output).rglob("*"):
        if path.is_file():
            files.pipe_file(f"/status/{path.relative_to(half.spec.output)}", path.read_bytes())
    yield "memory://status"
    files.rm("/status", recursive=True)


def test_the_same_through_any_url_and_as_json(half: Plan, remote: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([half.spec.output, "--as-json"]) == 0
    here = json.loads(capsys.readouterr().out)
    assert main([remote, "--as-json"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert here["stages"] == there["stages"]
    assert here["recent"] == there["recent"]


def test_watching_ends_with_the_run(
    half: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease(half.store, "tokenize_audio --config x.yaml")
    lease.acquire()
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            lease.release()

    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=pause))
    assert main([half.spec.output, "--watch", "0.2", "--as-json"]) == 0
    assert pauses == [0.2] * 3
    states = [json.loads(line)["state"] for line in capsys.readouterr().out.splitlines()]
    assert states[0] == "running"
    assert states[-1] == "stopped"
    assert states.count("stopped") == 1
