"""New files of a source are looked into by the cluster's workers, with what the driver would have found or said."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.cluster import probing as probing_module
from jobs.cluster.probing import probing
from pipeline.source.inventory import survey
from pipeline.source.probe import Looked, look_at
from schemas.errors import StorageError
from schemas.spec import Source
from tests.jobs.small_corpus import make_corpus
from tests.s3_server import Server


class TaskError(Exception):
    """Ray's error of a task, around the task's own."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("ray::look_at() and a traceback")
        self.cause = cause


class FakeRay:
    """Does a task when its result is asked for, in this process; `asked` has the files of each."""

    exceptions = SimpleNamespace(RayTaskError=TaskError)

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def remote(self, **options: Any) -> Callable[..., Any]:
        def wrap(function: Callable[..., Any]) -> Any:
            def start(uri: str, files: Sequence[tuple[str, int | None]]) -> Callable[[], Any]:
                self.asked.append([name for name, _ in files])
                return lambda: function(uri, files)

            return SimpleNamespace(remote=start)

        return wrap

    def get(self, references: Sequence[Callable[[], Any]]) -> list[Any]:
        try:
            return [reference() for reference in references]
        except StorageError as error:
            raise TaskError(error) from error


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(probing_module, "ray_session", lambda: nullcontext(ray))
    monkeypatch.setattr(probing_module, "is_embedded", lambda: False)
    monkeypatch.setattr(probing_module, "LEAST", 3)
    monkeypatch.setattr(probing_module, "PIECE", 2)
    return ray


def test_workers_find_what_the_driver_would(ray: FakeRay, tmp_path: Path) -> None:
    source = Source(uri=str(make_corpus(tmp_path / "audio")))
    alone = survey(source).table
    with probing() as look_many:
        assert survey(source, look_many=look_many).table.equals(alone)
    names = alone.column("uri").to_pylist()
    assert ray.asked == [names[:2], names[2:4], names[4:]]


def test_a_storage_that_does_not_answer_a_worker_is_named(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(uri: str, files: Sequence[tuple[str, int | None]]) -> list[Any]:
        raise StorageError(f"{files[0][0]} could not be reached")

    monkeypatch.setattr(probing_module, "look_at", away)
    with probing() as look_many, pytest.raises(StorageError, match="a could not be reached"):
        look_many("s3://somewhere", [("a", 1), ("b", 1), ("c", 1)])


def test_few_files_start_nothing(ray: FakeRay, tmp_path: Path) -> None:
    make_corpus(tmp_path / "audio", files=("sense_and_sensibility_0870.flac",))
    with probing() as look_many:
        assert len(survey(Source(uri=str(tmp_path / "audio")), look_many=look_many).items) == 1
    assert ray.asked == []


def look_and_tell(uri: str, files: Sequence[tuple[str, int | None]]) -> list[Looked | str]:
    """`look_at`, which leaves the number of its process in the folder SEEN."""
    (Path(os.environ["SEEN"]) / str(os.getpid())).touch()
    return look_at(uri, files)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_workers_of_a_real_cluster(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Ray that RAY_ADDRESS names, from object storage: the driver's table, looked up by others; and their StorageError."""
    import s3fs
    from ray.cluster_utils import Cluster

    seen = tmp_path / "seen"
    seen.mkdir()
    for name, value in {"SEEN": str(seen), "RAY_AUTH_MODE": "disabled", "LST_RETRY_SECONDS": "0"}.items():
        monkeypatch.setenv(name, value)
    make_corpus(tmp_path / "audio")
    s3fs.S3FileSystem().put(f"{tmp_path}/audio/", "bucket/probed/", recursive=True)
    source = Source(uri="s3://bucket/probed")
    alone = survey(source).table
    monkeypatch.setattr(probing_module, "LEAST", 3)
    monkeypatch.setattr(probing_module, "PIECE", 2)
    monkeypatch.setattr(probing_module, "look_at", look_and_tell)
    cluster = Cluster(initialize_head=True, connect=False, head_node_args={"num_cpus": 2})
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        with probing() as look_many:
            assert survey(source, look_many=look_many).table.equals(alone)
            pids = {int(path.name) for path in seen.iterdir()}
            server.fail({"method": "GET", "contains": "/probed/", "status": 503, "code": "SlowDown"})
            with pytest.raises(StorageError, match=r"bucket/probed/.* could not be reached"):
                survey(source, look_many=look_many)
    finally:
        server.fail()
        cluster.shutdown()
    assert pids
    assert os.getpid() not in pids
