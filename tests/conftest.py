"""For all tests: none reaches a model hub, and two processes share them so that a small machine is busy and not overrun."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from tests.s3_server import CREDENTIALS, Server, s3_server

# An example that is slow today is no failure. In CI the examples are those of every other time; new ones are met at the desk.
settings.register_profile("busy machine", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("busy machine")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported, which reads it once
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS = Path(__file__).parent
ON_RAY = ("jobs", "faults")
"""Folders whose tests start clusters: they take turns in one process, since a cluster takes the whole machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which tests stay together under `-n`: those on Ray, and those of a file, which share their fixtures."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        item.add_marker(pytest.mark.xdist_group("ray" if folder in ON_RAY else str(item.path)))


@pytest.fixture(scope="session")
def left() -> Iterator[list[psutil.Process]]:
    """What killed drivers have left, which must end by itself: the workers within seconds, Ray's two agents when their report of
    its end to a session that ended too has timed out (60 s). Looked for after the last test: nobody would wait for it either."""
    processes: list[psutil.Process] = []
    yield processes
    _, alive = psutil.wait_procs(processes, timeout=180)
    assert not alive, f"left running by a killed driver: {[process.name() for process in alive]}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An S3 server process with an empty bucket named "bucket", to which every s3:// of this process and its children leads."""
    s3fs = pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with s3_server(tmp_path_factory.mktemp("s3")) as started, pytest.MonkeyPatch.context() as patch:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": started.url}.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield started
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def calm(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server with nothing failing, and pauses between two questions that a test can wait for."""
    from schemas.storage import retry

    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    server.fail()
    server.requests()
    yield server
    server.fail()
