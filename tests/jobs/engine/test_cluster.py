"""A cluster that breathes: it begins without a node that can work, gets one, loses it, and gets another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.small_corpus import ROOT, contents, document, make_centroids, make_corpus, write_spec


def wait_for(what: Callable[[], object], process: subprocess.Popen[bytes], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, "the run ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_waits_for_nodes_and_survives_the_loss_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    make_corpus(tmp_path / "audio")
    make_centroids(tmp_path / "centroids")
    spec = write_spec(tmp_path / "spec.yaml", document(tmp_path / "audio", tmp_path / "out", tmp_path / "centroids"))
    cluster = Cluster(initialize_head=True, connect=False, head_node_args={"num_cpus": 0})
    said = tmp_path / "said"
    command = [sys.executable, "jobs/tokenize_audio.py", "--config", str(spec), "--no-progress"]
    with open(said, "wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "RAY_ADDRESS": cluster.address}, stdout=file, stderr=file
        )
    try:
        wait_for(lambda: "waiting for workers: the pool line" in said.read_text(), process)
        first = cluster.add_node(num_cpus=1)
        wait_for(lambda: list((tmp_path / "out").glob("commits/segments/*/*.json")), process)
        cluster.remove_node(first, allow_graceful=False)
        cluster.add_node(num_cpus=2)
        assert process.wait(timeout=400) == 0, said.read_text()
    finally:
        process.kill()
        process.wait()
        cluster.shutdown()
    assert "rejected     nothing" in said.read_text()
    assert any(name.endswith(".tar") for name in contents(tmp_path / "out" / "shards"))
