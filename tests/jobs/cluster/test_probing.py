"""New files of a source are looked into by the cluster's workers, with what the driver would have found or said."""

from __future__ import annotations

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
from schemas.errors import StorageError
from schemas.spec import Source
from tests.jobs.small_corpus import make_corpus


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
