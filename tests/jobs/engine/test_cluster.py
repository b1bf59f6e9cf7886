"""Clusters that breathe: one begins without a node, gets one, loses it, and gets another; one adds nodes by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.jobs.small_corpus import ROOT, contents, document, make_centroids, make_corpus, write_spec
from tests.ports import free_ports


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


EMPTY_LISTS = (
    *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands"),
    *("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
)
"""What else an autoscaler's configuration must have."""
LOOPBACK = "127.0.0.1"
STARTS = 3


def autoscaling(address: str, most: int) -> dict[str, object]:
    """The configuration of Ray's autoscaler with nodes of one CPU, each some processes of this machine."""
    small = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": most}
    return {
        "cluster_name": "growing",
        "provider": {"type": "fake_multinode", "gcs_address": address},
        "max_workers": most,
        "idle_timeout_minutes": 1.0,
        "upscaling_speed": 1.0,
        "file_mounts_sync_continuously": False,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "small": small,
        },
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in EMPTY_LISTS},
    }


@contextmanager
def growing_cluster(folder: Path, most: int) -> Iterator[str]:
    """The address of a cluster without a worker, whose autoscaler starts nodes as they are asked for.

    Not `ray.cluster_utils.AutoscalingCluster`, which begins and ends with `ray stop` and so ends every Ray of the machine.
    """
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory(
            prefix="ray-", ignore_cleanup_errors=True
        ) as own:  # paths of sockets are short
            head, address = start_head(folder, own, most)
            try:
                if is_up(head, folder / "ray"):
                    yield address
                    return
            finally:
                end(head, own)
    raise RuntimeError((folder / "ray").read_text())


def start_head(folder: Path, own: str, most: int) -> tuple[psutil.Popen, str]:
    port, client_port = free_ports(2)
    address = f"{LOOPBACK}:{port}"
    (folder / "autoscaler.json").write_text(json.dumps(autoscaling(address, most)), encoding="utf-8")
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=0"]
    ray += [f"--temp-dir={own}", f"--node-ip-address={LOOPBACK}", f"--port={port}"]
    ray += [f"--ray-client-server-port={client_port}", "--include-dashboard=false"]
    ray += [f"--autoscaling-config={folder / 'autoscaler.json'}"]
    environment = os.environ | {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    with open(folder / "ray", "wb") as file:
        return psutil.Popen(ray, env=environment, stdout=file, stderr=file, start_new_session=True), address


def is_up(head: psutil.Popen, said: Path) -> bool:
    """Waits until it is, or has ended: Ray gives its processes 30 s, which are too few on a busy machine."""
    while head.poll() is None:
        if "Ray runtime started" in said.read_text():
            return True
        time.sleep(0.1)
    return False


def end(head: psutil.Popen, own: str) -> None:
    """End what `head` has started and itself: first all are stopped, so that none starts another meanwhile."""
    everyone = {head}
    while fresh := {process for one in everyone for process in below(one)} - everyone:
        for process in fresh:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
        everyone |= fresh
    for process in everyone:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(everyone, timeout=30)
    assert not [
        process for process in psutil.process_iter(["cmdline"]) if own in " ".join(process.info["cmdline"] or ())
    ], "something was left behind"


def nodes_with_processors(address: str) -> int:
    """How many have ever been in the cluster."""
    ask = "import ray; ray.init(); print('nodes', sum(node['Resources'].get('CPU', 0) > 0 for node in ray.nodes()))"
    environment = os.environ | {"RAY_ADDRESS": address}
    command = [sys.executable, "-c", ask]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return int(answer.stdout.split("nodes")[-1])


def below(process: psutil.Process) -> list[psutil.Process]:
    try:
        children: list[psutil.Process] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return children


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_a_cluster_of_no_nodes_makes_its_autoscaler_add_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    make_corpus(tmp_path / "audio")
    make_centroids(tmp_path / "centroids")
    content = document(tmp_path / "audio", tmp_path / "out", tmp_path / "centroids")
    content["resources"] = {"line": {"workers": 2, "cpus": 1.0}}
    spec = write_spec(tmp_path / "spec.yaml", content)
    with growing_cluster(tmp_path, most=2) as address:
        command = [sys.executable, "jobs/tokenize_audio.py", "--config", str(spec), "--no-progress"]
        environment = os.environ | {"RAY_ADDRESS": address}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        nodes = nodes_with_processors(address)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert "the cluster has 0 now: going on with what is here, and waiting for the rest" in said
    assert "rejected     nothing" in said
    assert nodes in (1, 2)  # the second may come when the work is done
    assert any(name.endswith(".tar") for name in contents(tmp_path / "out" / "shards"))
