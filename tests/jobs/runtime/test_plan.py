"""What is recomputed and what is not: commits, fingerprints, rejects and crashes, with the workers called in this process."""

from __future__ import annotations

import os
import shutil
import signal
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

import jobs.runtime.isolation as isolation
import jobs.runtime.worker as worker_module
from jobs.engine.deaths import bring_back
from jobs.runtime.drive import TaskMaker, drive, prepare
from jobs.runtime.job import AnyTask, Job, PartitionTask
from jobs.runtime.plan import Plan, make_plan, refresh
from jobs.runtime.published import publish
from jobs.runtime.shard_index import write_index
from jobs.runtime.worker import StageWorker
from jobs.verify_dataset import verify_shards, verify_tables
from pipeline.source.base import AudioReader
from pipeline.stage import Stage, StageResult
from schemas.arrow import Row
from schemas.cards import Card
from schemas.config import ConfigError
from schemas.spec import STAGES, PipelineSpec
from schemas.tables import Reject, Units
from tests.jobs.small_corpus import DEMO, contents, make_spec


def run_here(spec: PipelineSpec, order: int = 1) -> tuple[Plan, dict[str, set[int]]]:
    """Run what is pending without Ray, partitions forwards or backwards; the plan and the numbers that were pending before."""
    plan = make_plan(spec)
    prepare(plan)
    pending = {stage: set(plan.pending(stage)) for stage in STAGES}
    job = Job.of(plan, uuid.uuid4().hex)

    def execute(names: Sequence[str], tasks: list[AnyTask]) -> Iterator[AnyTask]:
        workers = [StageWorker(job, name) for name in names]
        for task in tasks[::order]:
            for worker in workers:
                worker.do(task)
            yield task

    assert drive(plan, STAGES, execute, job.run_id) == []
    refresh(plan)
    if plan.is_complete():
        write_index(plan)
        publish(plan)
    return plan, pending


def task_of(plan: Plan, number: int) -> PartitionTask:
    """The task of a partition, as a run would make it."""
    return TaskMaker(plan, STAGES).of_partition(number)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineSpec, Path]:
    """A finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    spec = make_spec(folder)
    plan, _ = run_here(spec)
    assert plan.is_complete()
    return spec, folder


@pytest.fixture
def copied(finished: tuple[PipelineSpec, Path], tmp_path: Path) -> PipelineSpec:
    """The same finished run in a folder of its own."""
    shutil.copytree(finished[1], tmp_path, dirs_exist_ok=True)
    return make_spec(tmp_path)


def test_the_finished_run_holds_every_invariant(finished: tuple[PipelineSpec, Path]) -> None:
    plan = make_plan(finished[0])
    assert len(plan.partitions) >= 3
    assert len(plan.groups) >= 2
    assert list(verify_tables(plan)) == []
    assert verify_shards(plan) == []


def test_shards_do_not_depend_on_the_folder_nor_on_the_order_of_partitions(
    finished: tuple[PipelineSpec, Path], tmp_path: Path
) -> None:
    spec = make_spec(tmp_path)
    run_here(spec, order=-1)
    assert contents(Path(spec.output) / "shards") == contents(Path(finished[0].output) / "shards")
    assert contents(Path(spec.output) / "tables") == contents(Path(finished[0].output) / "tables")


def test_a_second_run_has_nothing_to_do(copied: PipelineSpec) -> None:
    run_here(copied)  # notes that the source has moved
    before = contents(Path(copied.output))
    _, pending = run_here(copied)
    assert not any(pending.values())
    assert contents(Path(copied.output)) == before


def test_a_deleted_commit_recomputes_that_partition_and_what_stands_on_it(copied: PipelineSpec) -> None:
    before = contents(Path(copied.output) / "shards")
    plan = make_plan(copied)
    victim = 1
    plan.store.remove(plan.store.commit_path("words", plan.stages["words"].fingerprint, plan.unit("words", victim)))
    plan, pending = run_here(copied)
    group = plan.group_of(victim)
    expected = {stage: set() for stage in STAGES} | {"words": {victim}, "patches": {victim}, "shards": {group}}
    assert pending == expected
    assert contents(Path(copied.output) / "shards") == before


def test_a_lost_table_file_counts_as_not_done(copied: PipelineSpec) -> None:
    plan = make_plan(copied)
    plan.store.remove(plan.commit("units", 0).outputs["units"].path)
    _, pending = run_here(copied)
    assert (pending["units"], pending["patches"], pending["words"]) == ({0}, {0}, set())


def test_changing_the_recogniser_keeps_the_units(finished: tuple[PipelineSpec, Path], tmp_path: Path) -> None:
    spec = finished[0]
    changed = spec.model_dump(mode="json")
    changed["stages"]["words"]["min_coverage"] = 0.4
    one, two = make_plan(spec), make_plan(PipelineSpec.model_validate(changed))
    differs = {stage for stage in STAGES if one.stages[stage].fingerprint != two.stages[stage].fingerprint}
    assert differs == {"words", "patches", "shards"}
    beams = []
    for beam in (1, 5):
        changed["stages"]["transcripts"] = {
            "backend": "whisperx",
            "model": str(fake_whisper(tmp_path)),
            "beam_size": beam,
        }
        beams.append(make_plan(PipelineSpec.model_validate(changed)))
    differs = {stage for stage in STAGES if beams[0].stages[stage].fingerprint != beams[1].stages[stage].fingerprint}
    assert differs == {"transcripts", "words", "patches", "shards"}


def fake_whisper(folder: Path) -> Path:
    """A directory that looks like a model to whoever only hashes it."""
    for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt", "preprocessor_config.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


def test_resources_and_devices_do_not_change_fingerprints(finished: tuple[PipelineSpec, Path]) -> None:
    spec = finished[0]
    changed = spec.model_dump(mode="json") | {"resources": {"units": {"workers": 7, "cpus": 1.0}}}
    plans = [make_plan(spec), make_plan(PipelineSpec.model_validate(changed))]
    assert plans[0].stages == plans[1].stages


def test_a_new_file_leaves_the_other_partitions_alone(copied: PipelineSpec, tmp_path: Path) -> None:
    shutil.copy(DEMO / "jfk_inaugural_1961.flac", Path(copied.source.uri) / "zz.flac")
    _, pending = run_here(copied)
    assert len(pending["recordings"]) == 1


def test_a_worker_never_commits_what_lost_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(tmp_path)
    plan = make_plan(spec)
    worker = StageWorker(Job.of(plan, "run"), "recordings")
    honest = worker.stage.run
    monkeypatch.setattr(
        worker.stage, "run", lambda tables, audio: StageResult(rows=list(honest(tables, audio).rows)[1:])
    )
    with pytest.raises(RuntimeError, match=r"recordings lost rows .* 1 unaccounted for"):
        worker.work(task_of(plan, 0))
    assert plan.store.find("commits") == []


class CrashingStage:
    """Passes segments on as units, and dies on one of them: what a bug in native code does."""

    name = "units"
    version = 1
    inputs = ("segments", "recordings")
    victim = ""
    death = "kill"

    def cards(self) -> list[Card]:
        return []

    def open(self) -> None: ...

    def close(self) -> None: ...

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        rows = []
        for row in tables["segments"]:
            identity = row.segment_id  # type: ignore[attr-defined]
            if identity == os.environ["CRASH_ON"]:
                if os.environ["CRASH_HOW"] == "hang":
                    time.sleep(60)
                if os.environ["CRASH_HOW"] == "fill":
                    held = [bytes(range(256)) * 2**16 for _ in range(64)]
                    time.sleep(len(held))
                os.kill(os.getpid(), signal.SIGKILL)
            rows.append(Units(segment_id=identity, num_frames=1, units=[1], tokenizer="t"))
        return StageResult(rows=rows)


def build_crashing(name: str, spec: PipelineSpec) -> Stage:
    return CrashingStage()


@pytest.mark.parametrize(
    "how, code, processes", [("kill", "worker_crashed", 3), ("hang", "timeout", 2), ("fill", "out_of_memory", 2)]
)
def test_a_row_that_kills_its_worker_is_found_and_rejected(
    finished: tuple[PipelineSpec, Path], monkeypatch: pytest.MonkeyPatch, how: str, code: str, processes: int
) -> None:
    """A death is tried once more, at the head of a process; time and memory that ran out are not."""
    spec, _ = finished
    plan = make_plan(spec)
    helper = StageWorker(Job.of(plan, "run"), "units")
    read = [helper._read_inputs(task_of(plan, number))[1] for number in range(len(plan.partitions))]
    tables = {name: [row for part in read for row in part[name]] for name in read[0]}
    keys = [row.segment_id for row in tables["segments"]]  # type: ignore[attr-defined]
    victim = keys.pop(1)
    assert len(keys) >= 2, "rows before and after it"
    monkeypatch.setenv("CRASH_ON", victim)
    monkeypatch.setenv("CRASH_HOW", how)
    started: list[int] = []
    honest = isolation.Child.__init__
    monkeypatch.setattr(isolation.Child, "__init__", lambda *args: (started.append(1), honest(*args))[1])
    limits = isolation.Limits(
        seconds=lambda audio: 5.0 if how == "hang" else 60.0, most_bytes=600 * 2**20 if how == "fill" else 0
    )
    result = isolation.run_isolated(spec, CrashingStage(), tables, attempts=2, limits=limits, build=build_crashing)
    assert len(started) == processes
    assert [row.segment_id for row in result.rows] == keys  # type: ignore[attr-defined]
    (reject,) = result.rejects
    assert isinstance(reject, Reject)
    assert (reject.id, reject.code, reject.attempts, reject.retriable) == (victim, code, 3, True)
    assert reject.seconds > 0


def test_a_partition_that_two_workers_died_of_is_isolated(
    copied: PipelineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(copied)
    isolated: list[int] = []
    honest = isolation.run_isolated

    def watched(*args: object) -> StageResult:
        isolated.append(1)
        return honest(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(worker_module, "run_isolated", watched)
    for deaths, expected in ((1, 0), (2, 1)):
        plan.store.remove(
            plan.store.commit_path("segments", plan.stages["segments"].fingerprint, plan.unit("segments", 0))
        )
        plan = make_plan(copied)
        prepare(plan)
        worker = StageWorker(Job.of(plan, "run"), "segments")
        isolated.clear()
        task = task_of(plan, 0)
        task.deaths["segments"] = deaths
        worker.work(task)
        assert len(isolated) == expected


def test_a_partition_whose_worker_died_after_its_commit_is_not_done_twice(copied: PipelineSpec) -> None:
    """What a dead worker held goes to another, with what was committed of it."""
    plan = make_plan(copied)
    path = plan.store.commit_path("units", plan.stages["units"].fingerprint, plan.unit("units", 0))
    task = task_of(plan, 0)
    plan.store.remove(path)
    prepare(make_plan(copied))
    del task.receipts["units"]
    job = Job.of(plan, "a")
    StageWorker(job, "units").work(task)
    again = task_of(plan, 0)
    del again.receipts["units"]
    bring_back(plan.store, job, again, STAGES[:-1])
    second = StageWorker(job, "units")
    second._stage = None  # whoever computes now fails
    second.work(again)
    assert again.receipts == task.receipts
    assert [commit.stage for commit in again.commits] == ["units"]


def test_an_empty_source_and_a_missing_source_are_one_sentence(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    empty = spec.model_dump(mode="json")
    (tmp_path / "empty").mkdir()
    empty["source"] |= {"uri": str(tmp_path / "empty"), "manifest": None, "transcripts": "none"}
    with pytest.raises(ConfigError, match="holds no audio"):
        make_plan(PipelineSpec.model_validate(empty))
    empty["source"]["uri"] = str(tmp_path / "absent")
    with pytest.raises(ConfigError, match="is not a folder"):
        make_plan(PipelineSpec.model_validate(empty))


@pytest.mark.parametrize("stage", ["segments", "units", "patches"])
def test_verify_notices_a_damaged_table(copied: PipelineSpec, stage: str) -> None:
    plan = make_plan(copied)
    commit = plan.commit(stage, 0)
    path = Path(copied.output) / commit.outputs[stage].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))
    assert any(commit.outputs[stage].path in problem for problem in verify_tables(plan))


def test_verify_notices_a_damaged_and_a_missing_shard(copied: PipelineSpec) -> None:
    plan = make_plan(copied)
    first, second = sorted((Path(copied.output) / "shards").glob("*.tar"))[:2]
    data = bytearray(first.read_bytes())
    data[700] ^= 255
    first.write_bytes(bytes(data))
    second.unlink()
    problems = verify_shards(plan)
    assert any(first.name in problem and "hash differs" in problem for problem in problems)
    assert any(second.name in problem and "is missing" in problem for problem in problems)


def test_a_damaged_commit_or_table_is_named_set_aside_and_done_again(copied: PipelineSpec) -> None:
    before = contents(Path(copied.output) / "shards")
    plan = make_plan(copied)
    empty = plan.store.commit_path("units", plan.stages["units"].fingerprint, plan.unit("units", 0))
    plan.store.write_bytes(empty, b"")
    short = plan.commit("words", 1).outputs["words"].path
    plan.store.write_bytes(short, b"short")
    plan = make_plan(copied)
    assert any(empty in said and "is empty" in said for said in plan.damaged)
    assert any(short in said for said in plan.damaged)
    _, pending = run_here(copied)
    assert (pending["units"], pending["words"]) == ({0}, {1})
    assert plan.store.exists(f"damaged/{empty}")
    assert contents(Path(copied.output) / "shards") == before
    assert list(verify_tables(make_plan(copied))) == []
