"""What a shard's commit counts, and what becomes of what cannot be written."""

import errno
import os
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.runtime import shard_writer
from jobs.runtime.drive import TaskMaker, prepare, run_in_process
from jobs.runtime.job import MAX_DEATHS, Job
from jobs.runtime.plan import make_plan
from jobs.runtime.rejects import read_rejects
from jobs.runtime.shard_index import Shares
from jobs.runtime.shard_writer import Build, Sample, _add, _build, open_maker
from jobs.runtime.worker import StageWorker
from jobs.verify_dataset import verify_shards, verify_tables
from pipeline.shards import Passage
from schemas.spec import STAGES, PipelineSpec, Resources
from schemas.tables import Reject, Segment
from tests.jobs.runtime.test_plan import run_here
from tests.jobs.small_corpus import make_spec
from tests.pipeline.test_shards import HOP, make_record, make_recording


def test_doubtful_words_and_uncovered_speech_are_counted() -> None:
    record = make_record("a", 0, 200, ["one", "two", "three"])
    words = [
        word.model_copy(update={"timing": timing, "uncovered": spans})
        for word, timing, spans in zip(
            record.words,
            ("aligned", "doubtful", "doubtful"),
            ([], [100, 8_100], [20_000, 24_000, 30_000, 34_000]),
            strict=True,
        )
    ]
    part = type(record)(**{**vars(record), "words": words})
    sums: dict[str, int] = defaultdict(int)
    _add(sums, Passage(recording=make_recording("a"), parts=[part]))
    shares = Shares()
    shares.add(sums)
    shares.add(sums)
    assert shares.belief() == {"doubtful_words": 4, "speech_uncovered": 2.0}


def passage_of(*names: str) -> Passage:
    parts = [make_record("a", 40 * HOP * number, 30, [name]) for number, name in enumerate(names)]
    return Passage(recording=make_recording("a"), parts=tuple(parts))


def build_unless(*bad: str, limit: int = 99) -> Build:
    """Makes a sample of the passage's words; raises at the bad ones, and where there are more than `limit`."""

    def build(passage: Passage) -> Sample:
        said = [part.words[0].text for part in passage.parts]
        if set(bad) & set(said) or len(said) > limit:
            raise ValueError(f"cannot write {said}")
        return {"json": " ".join(said)}

    return build


@pytest.mark.parametrize(
    "build, made, lost",
    [
        (build_unless(), ["one two three four"], []),
        (build_unless("two"), ["one", "three four"], ["two"]),
        (build_unless("one", "four"), ["two three"], ["one", "four"]),
        (build_unless("one", "two", "three", "four"), [], ["one", "two", "three", "four"]),
        (build_unless(limit=2), [], ["one", "two", "three", "four"]),
    ],
)
def test_what_cannot_be_written_is_rejected_and_what_stands_beside_it_is_in_the_shard(
    build: Build, made: list[str], lost: list[str]
) -> None:
    passage = passage_of("one", "two", "three", "four")
    rejects: list[Reject] = []
    samples = [sample["json"] for _, sample in _build(passage, build, rejects)]
    assert samples == made
    by_id = {part.segment.segment_id: part.words[0].text for part in passage.parts}
    assert [by_id[reject.id] for reject in rejects] == lost
    for reject in rejects:
        assert (reject.stage, reject.code, reject.seconds) == ("shards", "stage_error", 30 * HOP / 16_000)
        assert reject.traceback is not None
        assert "cannot write" in reject.traceback


def test_a_run_goes_on_past_a_segment_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reject is in the tables, the shards hold the others, the sums agree, and `make verify` says so."""
    spec = make_spec(tmp_path, max_reject_rate=1.0)
    honest = shard_writer.build_sample
    victim: list[str] = []

    def failing(passage: Passage, *more: object) -> Sample:
        victim[:] = victim or [passage.parts[0].segment.segment_id]
        if victim[0] in {part.segment.segment_id for part in passage.parts}:
            raise RuntimeError("no sample of this")
        return honest(passage, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(shard_writer, "build_sample", failing)
    plan, _ = run_here(spec)
    assert plan.is_complete()
    commits = list(plan.commits("shards"))
    assert sum(commit.rows_rejected for commit in commits) == 1
    assert all(commit.samples_in == commit.samples_out + commit.samples_rejected for commit in commits)
    assert [(reject.stage, reject.id) for reject in read_rejects(plan)] == [("shards", victim[0])]
    assert list(verify_tables(plan)) == []
    assert verify_shards(plan) == []


def test_a_shard_that_cannot_be_written_at_all_is_set_aside_and_the_others_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path)
    plan = make_plan(spec)
    prepare(plan)
    honest, calls = shard_writer.write_shard, list[int]()

    def failing(samples: list[Sample]) -> bytes:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError
        return honest(samples)

    monkeypatch.setattr(shard_writer, "write_shard", failing)
    (failed,) = run_in_process(plan, STAGES)
    assert "could not be written: MemoryError" in failed
    assert int((~plan.done["shards"]).sum()) == 1


def test_a_full_disk_ends_the_run_at_the_shards_as_at_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard set aside would end it with "run the same command again", and a scheduler does, on a full disk."""
    plan = make_plan(make_spec(tmp_path))
    prepare(plan)

    def full(*arguments: object) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shard_writer, "write_shard", full)
    with pytest.raises(OSError, match="No space left"):
        run_in_process(plan, STAGES)


def open_deadly(*arguments: Any) -> Callable[[Passage], Sample]:
    """As `open_maker`; the segment whose id is in VICTIM ends the process, as VICTIM_HOW says."""
    make = open_maker(*arguments)

    def deadly(passage: Passage) -> Sample:
        if os.environ["VICTIM"] in {part.segment.segment_id for part in passage.parts}:
            match os.environ["VICTIM_HOW"]:
                case "exit":
                    os._exit(1)
                case "hang":
                    time.sleep(60)
                case "once" if not os.path.exists(os.environ["VICTIM_NOTE"]):
                    open(os.environ["VICTIM_NOTE"], "w").close()
                    os.kill(os.getpid(), signal.SIGKILL)
                case "raise":
                    raise ValueError("no sample of this")
        return make(passage)

    return deadly


@pytest.fixture(scope="module")
def tables_only(tmp_path_factory: pytest.TempPathFactory) -> PipelineSpec:
    """A run of everything but the shards."""
    spec = make_spec(tmp_path_factory.mktemp("tables"), max_reject_rate=1.0)
    plan = make_plan(spec)
    prepare(plan)
    assert run_in_process(plan, STAGES[:-1]) == []
    return spec


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("exit", "worker_crashed"),
        ("hang", "timeout"),
        ("raise", "stage_error"),
        ("once", None),
    ],
)
def test_a_segment_that_kills_who_writes_it_is_rejected_and_its_neighbours_are_in_the_shard(
    tables_only: PipelineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, code: str | None
) -> None:
    """After two deaths, samples are made in processes of their own; what dies there once and not again is no reject."""
    pool = Resources(timeout_minutes=0.1 if how == "hang" else 5, timeout_factor=0)
    shutil.copytree(tables_only.output, tmp_path / "out")
    spec = tables_only.model_copy(update={"output": str(tmp_path / "out"), "resources": {"shards": pool}})
    plan = make_plan(spec)
    prepare(plan)
    task = TaskMaker(plan, STAGES).of_shard(0)
    assert task is not None
    task.deaths = MAX_DEATHS
    segments = [
        row.segment_id
        for units, receipts in task.partitions
        for row in shard_writer._Reader(plan.store, units, receipts).rows(Segment)
    ]
    monkeypatch.setenv("VICTIM", segments[0])
    monkeypatch.setenv("VICTIM_HOW", how)
    monkeypatch.setenv("VICTIM_NOTE", str(tmp_path / "died"))
    monkeypatch.setattr(shard_writer, "open_maker", open_deadly)
    worker = StageWorker(Job.of(plan, "run"), "shards")
    worker.do(task)
    assert not task.failed
    (commit,) = task.commits
    rejects = plan.store.read_table(Reject, commit.outputs["rejects"]) if code else []
    assert [(reject.id, reject.code) for reject in rejects] == [(segments[0], code)][: commit.rows_rejected]
    assert (commit.rows_rejected, commit.rows_out) == (int(code is not None), len(segments) - int(code is not None))
    assert commit.samples_in == commit.samples_out + commit.samples_rejected
    assert all(reject.seconds > 0 and reject.retriable for reject in rejects)
    if how == "raise":
        assert "in deadly" in (rejects[0].traceback or "")
