"""Clusters that breathe: one begins without a node, gets one, loses it, and gets another; one adds nodes by itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
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


@contextmanager
def growing_cluster(folder: Path, most: int) -> Iterator[str]:
    """The address of a cluster without a worker, whose autoscaler starts nodes of one CPU on this machine as they are asked for.

    `ray.cluster_utils.AutoscalingCluster` starts and ends with `ray stop`, which ends every Ray of the machine.
    """
    from ray.cluster_utils import AutoscalingCluster

    nodes = {"small": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": most}}
    config = folder / "autoscaler.json"
    config.write_text(json.dumps(AutoscalingCluster({"CPU": 0}, nodes)._config), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=0"]
    ray += [f"--autoscaling-config={config}", "--include-dashboard=false", "--ray-client-server-port=0"]
    environment = os.environ | {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    with open(folder / "ray", "wb") as file:
        head = psutil.Popen(ray, env=environment, stdout=file, stderr=file)
    try:
        wait_for(lambda: "Ray runtime started" in (folder / "ray").read_text(), head)
        yield f"127.0.0.1:{port}"
    finally:
        left = [head, *head.children(recursive=True)]
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_brings_a_cluster_from_nothing_to_as_many_nodes_as_it_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    make_corpus(tmp_path / "audio")
    make_centroids(tmp_path / "centroids")
    content = document(tmp_path / "audio", tmp_path / "out", tmp_path / "centroids")
    content["resources"] = {"line": {"workers": 1, "max_workers": 2, "cpus": 1.0}}
    spec = write_spec(tmp_path / "spec.yaml", content)
    with growing_cluster(tmp_path, most=2) as address:
        command = [sys.executable, "jobs/tokenize_audio.py", "--config", str(spec), "--no-progress"]
        environment = os.environ | {"RAY_ADDRESS": address}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (
        "the cluster has 0 now: going on with what is here, and waiting for the rest" in result.stdout + result.stderr
    )
    assert any(name.endswith(".tar") for name in contents(tmp_path / "out" / "shards"))
