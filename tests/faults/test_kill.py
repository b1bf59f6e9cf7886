"""SIGKILL anything at any moment: a rerun ends with the very bytes of an undisturbed run, and nothing is left running."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from jobs.engine.deaths import GIVE_UP
from tests.jobs.small_corpus import ROOT, contents, document, make_centroids, make_corpus, write_spec

SEED = 20261122


def start(spec: Path) -> subprocess.Popen[str]:
    """The job in a session of its own, its output kept for the failure message."""
    log = spec.with_suffix(".log").open("a")
    return subprocess.Popen(
        [sys.executable, "jobs/tokenize_audio.py", "--config", str(spec), "--no-progress"],
        cwd=ROOT,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(spec: Path) -> None:
    process = start(spec)
    assert process.wait(timeout=300) == 0, spec.with_suffix(".log").read_text()


def wait_for_commits(process: subprocess.Popen[str], output: Path, more: int) -> None:
    """Until a run has made so many commits more than there were, or has ended."""

    def count() -> int:
        return len(list(output.glob("commits/*/*/*.json")))

    wanted = count() + more
    while count() < wanted and process.poll() is None:
        time.sleep(0.05)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder / "audio")
    make_centroids(folder / "centroids")
    return folder


def make_job(corpus: Path, tmp_path: Path, name: str, workers: int = 1) -> Path:
    content = document(corpus / "audio", tmp_path / name, corpus / "centroids")
    content["resources"] = {"line": {"workers": workers}}
    if workers > 1:
        content["resources"]["units"] = {"workers": workers}
    return write_spec(tmp_path / f"{name}.yaml", content)


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shard files of a run that nobody disturbs, with one worker per stage."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(make_job(corpus, folder, "calm"))
    shards = contents(folder / "calm" / "shards")
    assert len(shards) >= 3, "two shards and the index"
    return shards


@pytest.mark.timeout(900)
def test_killing_the_driver_at_random_moments(
    corpus: Path, tmp_path: Path, undisturbed: dict[str, bytes], left: list[psutil.Process]
) -> None:
    spec = make_job(corpus, tmp_path, "driver")
    dice = random.Random(SEED)
    killed = 0
    # commits that a run makes before it is killed: in the middle of them, or at its start
    for more in (0, 1, 4, 0, 2, 6):
        process = start(spec)
        wait_for_commits(process, tmp_path / "driver", more)
        time.sleep(dice.uniform(0.0, 0.3 if more else 4.0))
        if process.poll() is None:
            left += psutil.Process(process.pid).children(recursive=True)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    assert killed >= 3, "the machine was too fast for these moments: shorten them"
    finish(spec)
    assert contents(tmp_path / "driver" / "shards") == undisturbed


@pytest.mark.timeout(900)
def test_killing_workers_at_random_moments_while_two_work_on_each_stage(
    corpus: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    spec = make_job(corpus, tmp_path, "workers", workers=2)
    dice = random.Random(SEED + 1)
    process = start(spec)
    driver = psutil.Process(process.pid)
    killed = 0
    deadline = time.monotonic() + 240
    # one less than would set a partition aside, should every one of them meet the worker that holds it
    while process.poll() is None and killed < GIVE_UP - 1 and time.monotonic() < deadline:
        time.sleep(dice.uniform(0.3, 1.5))  # a quiet machine may be through five seconds after its workers began
        workers = stage_workers(driver)
        with suppress(psutil.NoSuchProcess):  # the run has ended in between, and its workers with it
            if workers:
                dice.choice(workers).kill()
                killed += 1
    assert process.wait(timeout=240) == 0, spec.with_suffix(".log").read_text()
    assert killed >= 3
    assert contents(tmp_path / "workers" / "shards") == undisturbed


def stage_workers(driver: psutil.Process) -> list[psutil.Process]:
    """The line's actors under the driver, as they name themselves. Ray's own agents are not ours to kill."""
    found = []
    try:
        for process in driver.children(recursive=True):
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::LineWorker"):
                found.append(process)
    except psutil.NoSuchProcess:
        return found
    return found


@pytest.mark.timeout(600)
def test_sigterm_finishes_what_is_in_flight_and_says_try_again(
    corpus: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    spec = make_job(corpus, tmp_path, "term")
    process = start(spec)
    commits = tmp_path / "term" / "commits"
    deadline = time.monotonic() + 120
    while not list(commits.glob("segments/*/*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=120)
    assert code == 75, f"exit code {code}\n{spec.with_suffix('.log').read_text()}"
    assert not (tmp_path / "term" / "shards" / "index.json").exists()
    finish(spec)
    assert contents(tmp_path / "term" / "shards") == undisturbed
