"""The store: whole files or none, the first commit wins, and a changed file is noticed. Locally and on any fsspec URL."""

import errno
import multiprocessing
import os
import time
import uuid
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.runtime.job import Job
from jobs.runtime.plan import make_plan
from jobs.runtime.worker import StageWorker
from jobs.store.store import CorruptFileError, Store
from schemas.commit import Commit
from schemas.config import ConfigError
from schemas.tables import Units
from tests.jobs.runtime.test_plan import run_here
from tests.jobs.small_corpus import make_spec

ROWS = [Units(segment_id=name, num_frames=2, units=[1, 2], tokenizer="t") for name in ("b", "a")]


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out") if request.param == "local" else f"memory://store-{uuid.uuid4().hex}")


def commit(store: Store, partition: str = "00000-aa", seconds: float = 1.0) -> Commit:
    output = store.write_table(Units, ROWS, partition, "f" * 64)
    return Commit(
        stage="units",
        fingerprint="f" * 64,
        partition=partition,
        inputs={},
        outputs={"units": output},
        rows_in=2,
        rows_out=2,
        rows_rejected=0,
        rejects_by_code={},
        samples_in=0,
        samples_out=0,
        samples_rejected=0,
        seconds_busy=seconds,
    )


def test_rows_come_back_sorted_and_equal_rows_make_one_file(store: Store) -> None:
    first = store.write_table(Units, ROWS, "p", "f")
    again = store.write_table(Units, list(reversed(ROWS)), "p", "f")
    assert first == again
    assert store.names("tables/units") == {first.path.split("/")[-1]}
    assert store.read_table(Units, first) == sorted(ROWS, key=lambda row: row.segment_id)


def test_file_metadata_says_what_the_table_is(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    output = store.write_table(Units, ROWS, "p", "f")
    metadata = pq.read_schema(tmp_path / output.path).metadata
    assert metadata[b"table"] == b"units"
    assert (metadata[b"partition"], metadata[b"fingerprint"], metadata[b"rows"]) == (b"p", b"f", b"2")


def test_the_first_commit_wins(store: Store) -> None:
    assert store.publish(commit(store, seconds=1.0))
    assert not store.publish(commit(store, seconds=2.0))
    assert store.read_commit("units", "f" * 64, "00000-aa").seconds_busy == 1.0
    assert store.names("commits/units/" + "f" * 16) == {"00000-aa.json"}


def test_a_changed_file_is_noticed(store: Store) -> None:
    output = store.write_table(Units, ROWS, "p", "f")
    data = bytearray(store.read_bytes(output.path))
    data[len(data) // 2] ^= 1
    store.fs.pipe_file(store.path(output.path), bytes(data))
    with pytest.raises(CorruptFileError, match=r"tables/units/p-.*has changed since it was committed"):
        store.read_table(Units, output)


def test_a_changed_file_among_the_superseded_is_set_aside_from_there(store: Store) -> None:
    """It was looked for where it had lain before, so it stayed, and every run ended with 75 over it."""
    output = store.write_table(Units, ROWS, "p", "f")
    store.move(output.path, f"superseded/{output.path}")
    store.fs.pipe_file(store.path(f"superseded/{output.path}"), b"x" * output.bytes)
    with pytest.raises(CorruptFileError, match=r"superseded/tables/units/p-.*has changed") as found:
        store.read_table(Units, output)
    store.set_aside(found.value.path, "has changed")
    assert not store.exists(f"superseded/{output.path}")
    assert store.exists(f"damaged/superseded/{output.path}")


def test_what_is_not_there_is_empty_or_an_error(store: Store) -> None:
    assert store.names("commits/units/" + "0" * 16) == set()
    with pytest.raises(FileNotFoundError):
        store.read_commit("units", "0" * 64, "p")
    store.remove("nothing/here")


def _create(root: str, number: int, results: "multiprocessing.Queue[bool]") -> None:
    results.put(Store(root).create_exclusively("commits/x", str(number).encode() * 100_000))


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none, as on exFAT"])
def test_of_many_processes_one_creates_the_file_and_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refused(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), source, None, target)

    def slow(path: str) -> bool:
        there = exists(path)
        time.sleep(0.05)  # for another process to come between
        return there

    exists = os.path.lexists
    if not links:
        monkeypatch.setattr(os, "link", refused)
        monkeypatch.setattr(os.path, "lexists", slow)
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[bool] = context.Queue()
    workers = [context.Process(target=_create, args=(str(tmp_path), number, results)) for number in range(8)]
    for worker in workers:
        worker.start()
    assert sorted(results.get(timeout=30) for _ in workers) == [False] * 7 + [True]
    for worker in workers:
        worker.join()
    data = (tmp_path / "commits/x").read_bytes()
    assert len(data) == 100_000
    assert len(set(data)) == 1
    assert [path.name for path in (tmp_path / "commits").iterdir()] == ["x"], "temporary files were left"


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to .*file/out.*choose another `output`"):
        Store(str(tmp_path / "file" / "out")).check_writable()


def test_a_listing_into_a_read_only_output_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(target: str, data: bytes) -> str:
        raise OSError(errno.EROFS, "Read-only file system", target)

    monkeypatch.setattr(Store, "_write_temporary", staticmethod(read_only))
    with pytest.raises(ConfigError, match=r"Read-only file system.*choose another `output`"):
        make_plan(make_spec(tmp_path))


def test_a_commit_that_another_owner_has_just_gathered_is_made_once_more(tmp_path: Path) -> None:
    """A worker of a driver that was taken over finds its name taken, and then the file gone: the commit counts once."""
    spec = make_spec(tmp_path)
    run_here(spec)
    plan = make_plan(spec)
    (commit,) = plan.logs["units"].commits([plan.unit("units", 0)])
    worker = StageWorker(Job.of(plan, "run"), "units")
    read = worker.store.read_commit

    def gathered(*where: str) -> Commit:
        plan.store.remove(plan.store.commit_path(*where))
        worker.store.read_commit = read  # type: ignore[method-assign]
        return read(*where)

    worker.store.read_commit = gathered  # type: ignore[method-assign]
    assert worker._publish(commit).outputs == commit.outputs
    assert make_plan(spec).is_complete()
