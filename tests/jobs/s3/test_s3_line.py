"""The real line from s3 to s3, in one process and on Ray: killed at random moments, with the bytes of a local run."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from jobs.lst import main as lst
from jobs.store.store import Store
from schemas.config import parse_config
from schemas.shards import ShardIndex
from schemas.spec import PipelineSpec
from tests.jobs.growth.growing import run
from tests.jobs.small_corpus import ROOT, document, make_centroids, make_corpus
from tests.s3_server import Server

s3fs = pytest.importorskip("s3fs")
IN_PROCESS = """
import sys, yaml
from schemas.config import parse_config
from schemas.spec import PipelineSpec
from tests.jobs.growth.growing import run
run(parse_config(PipelineSpec, yaml.safe_load(open(sys.argv[1])), origin="test"))
"""


def shards(output: str) -> dict[str, bytes]:
    """Every shard and its index."""
    store = Store(output)
    index = store.read_bytes("shards/index.json")
    listed = ShardIndex.model_validate_json(index).shards
    return {"index": index} | {entry.path: store.read_bytes(f"shards/{entry.path}") for entry in listed}


@pytest.fixture(scope="module")
def place(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Audio and centroids here and under s3://bucket/whole, and the shards of a local run."""
    folder = tmp_path_factory.mktemp("line")
    make_corpus(folder / "audio")
    make_centroids(folder / "centroids")
    for name in ("audio", "centroids"):
        s3fs.S3FileSystem().put(f"{folder / name}/", f"bucket/whole/{name}/", recursive=True)
    run(parse_config(PipelineSpec, document(folder / "audio", folder / "out", folder / "centroids"), origin="test"))
    return folder


def remote_spec(place: Path, output: str) -> Path:
    """The same from s3 to s3."""
    settings = document(place / "audio", place / "out", place / "centroids") | {"output": output}
    settings["source"]["uri"] = "s3://bucket/whole/audio"
    settings["stages"]["units"]["centroids"] = "s3://bucket/whole/centroids"
    spec = place / f"{output.rsplit('/', 1)[-1]}.yaml"
    spec.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return spec


def test_killed_at_random_moments_and_resumed(place: Path) -> None:
    """SIGKILL whatever is under way, twice."""
    output = "s3://bucket/whole/killed"
    spec, store, dice = remote_spec(place, output), Store(output), random.Random(7)
    for kill in range(2):
        before = len(store.find("commits"))
        process = subprocess.Popen([sys.executable, "-c", IN_PROCESS, str(spec)], cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(store.find("commits")) < before + 2:
            time.sleep(0.1)
        time.sleep(dice.uniform(0, 0.2))
        process.kill()
        process.wait()
        assert len(store.find("commits")) > before, f"kill {kill} came before anything was committed"
    assert not store.exists("shards/index.json"), "there was nothing left to do"
    run(parse_config(PipelineSpec, yaml.safe_load(spec.read_text()), origin="test"))
    assert shards(output) == shards(str(place / "out"))


def test_on_ray_killed_resumed_and_looked_at(
    place: Path, capsys: pytest.CaptureFixture[str], left: list[psutil.Process]
) -> None:
    """The job on a Ray of its own: SIGKILL of its driver, the same command again, and the commands that read an output."""
    output = "s3://bucket/whole/ray"
    spec, store = remote_spec(place, output), Store(output)
    command = [sys.executable, "jobs/tokenize_audio.py", "--config", str(spec), "--no-progress"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and len(store.find("commits")) < 2:
        time.sleep(0.1)
    left += psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    committed = len(store.find("commits"))
    assert committed >= 2
    assert not store.exists("shards/index.json"), "there was nothing left to do"
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert shards(output) == shards(str(place / "out"))
    looks = {
        ("status", output): "finished",
        ("gc", "--config", str(spec), "--stale"): "removed 0 commits",
        ("sql", output, "select count(*) as words from words"): "words",
        ("rejects", output): "nothing was rejected",
        ("report", output): "report.html",
        ("card", f"{output}/shards/index.json"): "# Data card",
    }
    for words, wanted in looks.items():
        assert lst(list(words)) == 0, words
        assert wanted in capsys.readouterr().out, words
