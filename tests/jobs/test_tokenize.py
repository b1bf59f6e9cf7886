"""The command itself: on an embedded Ray, through `ray job submit` on a cluster, and with everything a user can get wrong."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import psutil
import pytest

from jobs.cluster.places import base_folder, resolve
from jobs.cluster.starting import STARTS
from schemas import open_output
from schemas.config import ConfigError
from tests.jobs.small_corpus import (
    ROOT,
    contents,
    document,
    make_centroids,
    make_corpus,
    second_clone,
    who_ran,
    write_spec,
)
from tests.ports import free_ports

RAY = Path(sys.executable).parent / "ray"
OF_THE_CLONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
"""Nothing but the rule of the commands themselves says which checkout runs."""


def tokenize(spec: Path, *arguments: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """Run the job and keep what it says."""
    command = [sys.executable, "jobs/tokenize_audio.py", "--config", str(spec), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a codebook, and a spec beside them."""
    folder = tmp_path_factory.mktemp("tokenize")
    make_corpus(folder / "audio")
    make_centroids(folder / "centroids")
    write_spec(folder / "spec.yaml", document(folder / "audio", folder / "out", folder / "centroids"))
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second checkout, used with the environment that this one was installed into."""
    return second_clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def finished(folder: Path, clone: Path) -> subprocess.CompletedProcess[str]:
    """The job, run to its end on an embedded Ray, by a script of the clone from outside of it."""
    command = [sys.executable, str(clone / "jobs" / "tokenize_audio.py"), "--config", str(folder / "spec.yaml")]
    result = subprocess.run(command, cwd=folder, env=OF_THE_CLONE, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    assert who_ran(clone) == {"tokenize_audio.py", "default_worker.py"}, "the driver and its workers ran other code"
    return result


def changed(folder: Path, tmp_path: Path, **changes: Any) -> Path:
    return write_spec(
        tmp_path / "spec.yaml", document(folder / "audio", tmp_path / "out", folder / "centroids", **changes)
    )


def test_the_summary_tells_the_funnel(finished: subprocess.CompletedProcess[str]) -> None:
    for line in ("audio in", "speech", "transcribed", "aligned", "in shards", "rejected     nothing", "x real time"):
        assert line in finished.stdout
    assert "Traceback" not in finished.stderr


def test_a_second_run_starts_no_ray_and_says_so_fast(folder: Path, finished: object) -> None:
    before = contents(folder / "out" / "shards")
    result = tokenize(folder / "spec.yaml")
    assert result.returncode == 0
    assert "0.0 s until Ray was up" in result.stdout
    assert contents(folder / "out" / "shards") == before


def test_two_workers_in_another_folder_give_the_same_bytes(folder: Path, finished: object, tmp_path: Path) -> None:
    resources = {"segments": {"workers": 2}, "line": {"workers": 2}}  # there and back between two pools
    result = tokenize(changed(folder, tmp_path, resources=resources))
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "out" / "shards") == contents(folder / "out" / "shards")
    assert contents(tmp_path / "out" / "tables") == contents(folder / "out" / "tables")


def test_tables_open_in_duckdb_pandas_and_polars(folder: Path, finished: object) -> None:
    output = open_output(str(folder / "out"))
    units = output.files("units")[0]
    rows = duckdb.sql(f"select segment_id, num_frames, len(units) from '{units}'").fetchall()
    assert rows
    assert all(frames == length for _, frames, length in rows)
    assert pd.read_parquet(units)["num_frames"].tolist() == [row[1] for row in rows]
    assert pl.read_parquet(units)["units"].list.len().to_list() == [row[2] for row in rows]
    connection = duckdb.connect()
    connection.execute((folder / "out/views/index.sql").read_text())
    late = "select count(*) from words w join segments s using (segment_id) where w.end_s > s.end_s - s.start_s"
    assert connection.execute(late).fetchall() == [(0,)]
    assert connection.execute("select count(*) from words").fetchall() == [(output.words.count_rows(),)]


def test_dry_run_prints_the_plan_and_writes_the_inventory_alone(folder: Path, tmp_path: Path) -> None:
    result = tokenize(changed(folder, tmp_path), "--dry-run")
    assert result.returncode == 0
    assert "5 files, 0:00:25 of audio" in result.stdout
    assert any(line.split()[:4] == ["segments", "4", "0", "4"] for line in result.stdout.splitlines()), result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"inventory", "layout.json"}


def test_only_needs_what_it_stands_on(folder: Path, tmp_path: Path) -> None:
    result = tokenize(changed(folder, tmp_path), "--only", "units")
    assert result.returncode == 2
    assert "--only units needs segments" in result.stderr
    assert "run --until segments first" in result.stderr


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        (["stages.words.min_coverge=0.5"], "did you mean 'min_coverage'"),
        (["stages.units.centroids=/nowhere/at/all"], "no centroids in /nowhere/at/all"),
        (["source.uri=/nowhere/at/all"], "is not a folder"),
        (["output=/proc/nothing"], "cannot write to /proc/nothing"),
        (["resources={words: {cpus: 9999}}"], "ask for 9999 CPUs"),
        (["resources={units: {gpus: 1}}"], "ask for 1 GPUs"),
        (["resources={wrods: {workers: 2}}"], "did you mean 'words'"),
        (["stages.transcripts={backend: whisperx, model: models/absent}"], "models/absent"),
    ],
)
def test_a_mistake_is_one_sentence_before_any_work(
    folder: Path, tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    result = tokenize(changed(folder, tmp_path), *overrides)
    assert result.returncode == 2, result.stdout
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "out").glob("commits/recordings")), "work was done before the mistake was noticed"


def test_more_rejects_than_allowed_is_an_error_but_loses_nothing(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "audio", tmp_path / "audio")
    (tmp_path / "audio" / "broken.flac").write_bytes(b"fLaC" + bytes(100))
    content = document(tmp_path / "audio", tmp_path / "out", folder / "centroids", max_reject_rate=0.01)
    spec = write_spec(tmp_path / "spec.yaml", content)
    result = tokenize(spec)
    assert result.returncode == 4
    said = r"recordings rejected \d+\.\d% of its input \(1 decode_error\), more than max_reject_rate 1\.0%"
    assert re.search(said, result.stderr), "of what was done when the run ended"
    assert tokenize(spec, "max_reject_rate=0.5").returncode == 0
    assert (tmp_path / "out/shards/index.json").exists()


# a cluster ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray head node of our own on loopback, stopped by its process id; the address of its job server."""
    for _ in range(STARTS):
        temporary = tempfile.mkdtemp(prefix="r", dir="/tmp")  # socket paths must stay short
        process, port, agent = start_head(temporary)
        try:
            if listens(port, process, 90):
                listens(agent, process, 60)  # which starts the jobs: Ray gives it ten seconds after the first of them
                yield f"http://127.0.0.1:{port}"
                return
        finally:
            end(process)
            shutil.rmtree(temporary, ignore_errors=True)
    raise AssertionError("ray start did not come up")


def start_head(temporary: str) -> tuple[subprocess.Popen[bytes], int, int]:
    """`ray start`, the port of its job server, and that of its agent."""
    own, client, port, agent = free_ports(4)
    environment = {
        **OF_THE_CLONE,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # jobs run the python found here
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
    }
    command = [str(RAY), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    command += [f"--port={own}", f"--ray-client-server-port={client}", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={port}", f"--dashboard-agent-listen-port={agent}", f"--temp-dir={temporary}"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return process, port, agent


def end(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started."""
    if process.poll() is None:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=30)
        for member in alive:
            member.kill()
    process.wait()


def listens(port: int, process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Waits until somebody does at this port, or the process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.5)
    return False


def test_ray_job_submit_gives_the_same_bytes_and_runs_the_submitted_checkout(
    folder: Path, finished: object, tmp_path: Path, cluster: str, clone: Path
) -> None:
    spec = changed(folder, tmp_path)
    command = [str(RAY), "job", "submit", "--address", cluster, "--working-dir", ".", "--"]
    command += ["python", "jobs/tokenize_audio.py", "--config", str(spec)]
    environment = {**OF_THE_CLONE, "RAY_AUTH_MODE": "disabled"}
    result = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=400, env=environment)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "succeeded" in result.stdout + result.stderr
    assert contents(tmp_path / "out" / "shards") == contents(folder / "out" / "shards")
    assert who_ran(clone) == {"tokenize_audio.py", "default_worker.py"}, "the driver and its workers ran other code"


def test_in_rays_copy_relative_paths_lead_to_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "_ray_pkg_0123"
    copy.mkdir()
    monkeypatch.delenv("LST_ROOT", raising=False)
    monkeypatch.chdir(copy)
    assert base_folder() == ROOT
    monkeypatch.setenv("LST_ROOT", str(tmp_path))
    assert base_folder() == tmp_path
    assert resolve("runs/demo", base_folder()) == str(tmp_path / "runs/demo")
    assert resolve("s3://bucket/x", base_folder()) == "s3://bucket/x"


def test_in_rays_copy_without_the_project_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "_ray_pkg_0123"
    copy.mkdir()
    monkeypatch.delenv("LST_ROOT", raising=False)
    monkeypatch.chdir(copy)
    monkeypatch.setattr("jobs.cluster.places.distributions", lambda name: [])
    with pytest.raises(ConfigError, match="set LST_ROOT"):
        base_folder()
