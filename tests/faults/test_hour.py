"""Twenty minutes of audio on a cluster of two nodes (MINUTES=60 for an hour): one node is lost, and five files hang, kill their
worker, exhaust its memory, kill who writes their sample, and are not there. The models are the demo's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from benchmarks.stress.hours import make_corpus
from jobs.monitoring.metrics import COUNTERS, GAUGES
from jobs.runtime.plan import make_plan
from jobs.runtime.rejects import read_rejects
from schemas.config import load_config
from schemas.spec import PipelineSpec
from schemas.tables import Recording
from tests.faults.test_poison import POISON, POISONED_SHARDS
from tests.jobs.engine.test_cluster import wait_for
from tests.jobs.small_corpus import DEMO, ROOT, contents, second_clone, write_spec

MINUTES = float(os.environ.get("MINUTES", 20))
BAD = ("hang", "kill", "fill", "unwritable", "gone")
"""What fills its process takes 3.5 GiB: more than `memory_gib` below also where the process has no model but the stage's own."""
BAD_SECONDS = 200
"""So long that neither a partition nor a shard of others takes one of them in: those are then the same as without them."""
METRICS = {f"ray_{name}_total" for name in COUNTERS} | {f"ray_{name}" for name in GAUGES}
WHISPER = ROOT / "models" / "whisper-tiny.en"


def make_bad(folder: Path) -> None:
    """The five, by name after all others."""
    audio, rate = soundfile.read(DEMO / "sonnet_1.flac", dtype="float32")
    for number, name in enumerate(BAD[:-1]):
        long = np.resize(audio * np.float32(0.9 - 0.1 * number), BAD_SECONDS * rate)
        soundfile.write(folder / f"zz_{name}.flac", long, rate)
    (folder / "zz_gone.flac").symlink_to(folder / "nowhere")


def spec_of(path: Path, source: Path, output: Path) -> Path:
    """The demo's spec on these recordings; its relative paths begin at the checkout."""
    document = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    document["source"] = {"uri": str(source), "name": "hour"}
    document |= {"output": str(output), "partitions": {"minutes": 1.0}, "max_reject_rate": 0.9}
    document["stages"]["shards"]["minutes"] = 2.0
    document["stages"]["transcripts"]["model"] = document["stages"]["words"]["encoder"] = str(WHISPER)
    document["resources"] = {"line": {"memory_gib": 3.0, "timeout_minutes": 0.5, "timeout_factor": 0.0}}
    return write_spec(path, document)


class Operator:
    """Looks at the metrics of all nodes and at `lst status` while a run lasts."""

    def __init__(self, cluster: Any, output: Path) -> None:
        self.metrics: dict[str, set[str]] = {}
        """Name -> samples that were served, without their values."""
        self.states: list[str] = []
        self._cluster, self._output, self._ended = cluster, output, threading.Event()

    @contextmanager
    def looking(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _look(self) -> None:
        asked = float("-inf")
        while not self._ended.wait(2.0):
            for node in self._cluster.list_all_nodes():
                address = f"http://{node.node_ip_address}:{node.metrics_export_port}/metrics"
                try:
                    with urllib.request.urlopen(address, timeout=5) as answer:
                        served = answer.read().decode("utf-8")
                except OSError:
                    continue
                for sample in re.findall(r"^(ray_lst_.*) \S+$", served, re.MULTILINE):
                    self.metrics.setdefault(sample.partition("{")[0], set()).add(sample)
            if self._output.is_dir() and time.monotonic() - asked > 30:
                asked = time.monotonic()
                command = [sys.executable, "jobs/lst.py", "status", str(self._output)]
                self.states.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not WHISPER.exists(), reason="`make models` fetches it")
def test_a_lost_node_and_five_bad_files_cost_nothing_but_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    make_corpus(tmp_path / "good", MINUTES / 60, longest=90)
    (tmp_path / "bad").mkdir()
    for path in (tmp_path / "good").iterdir():
        (tmp_path / "bad" / path.name).hardlink_to(path)
    make_bad(tmp_path / "bad")
    specs = {
        name: spec_of(tmp_path / f"{name}.yaml", tmp_path / name, tmp_path / f"{name}-out") for name in ("good", "bad")
    }
    clone = second_clone(tmp_path / "clone")
    for name in ("assets", "models"):
        (clone / name).symlink_to(ROOT / name)
    for name, poison in (("segments", POISON.replace("range(8)", "range(14)")), ("shards", POISONED_SHARDS)):
        with open(clone / "pipeline" / f"{name}.py", "a", encoding="utf-8") as file:
            file.write(poison)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "jobs/tokenize_audio.py", "--no-progress", "--config"]
    cluster = Cluster(initialize_head=True, connect=False, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    said = tmp_path / "said"
    with open(said, "wb") as file:
        process = subprocess.Popen(
            [*command, str(specs["bad"])],
            cwd=clone,
            env=environment | {"RAY_ADDRESS": cluster.address},
            stdout=file,
            stderr=file,
        )
    operator = Operator(cluster, tmp_path / "bad-out")
    try:
        with operator.looking():
            wait_for(lambda: len(list((tmp_path / "bad-out").glob("commits/words/*/*.json"))) > 5, process)
            cluster.remove_node(nodes[0], allow_graceful=False)
            assert process.wait(timeout=3000) == 0, said.read_text()
    finally:
        process.kill()
        process.wait()
        cluster.shutdown()
        (tmp_path / "states").write_text("\n".join(operator.states), encoding="utf-8")
        (tmp_path / "metrics").write_text("\n".join(sorted(set().union(*operator.metrics.values()))), encoding="utf-8")
    result = subprocess.run([*command, str(specs["good"])], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr

    plan = make_plan(load_config(PipelineSpec, specs["bad"]), recorded=True)
    commits = list(plan.commits("recordings"))
    rows = [row for commit in commits for row in plan.store.read_table(Recording, commit.outputs["recordings"])]
    uris = {row.recording_id: row.uri for row in rows}
    rejects = {uris.get(item.id[:16], item.id): item.code for item in read_rejects(plan)}
    assert all(f"({uris[item.id]})" in item.detail for item in read_rejects(plan) if item.code == "timeout")
    assert {name: code for name, code in rejects.items() if name.startswith("zz_")} == {
        "zz_hang.flac": "timeout",
        "zz_kill.flac": "worker_crashed",
        "zz_fill.flac": "out_of_memory",
        "zz_gone.flac": "missing",
        "zz_unwritable.flac": "worker_crashed",
    }
    good, bad = (contents(tmp_path / f"{name}-out" / "shards") for name in ("good", "bad"))
    shards = {name for name in good if name.endswith(".tar")}
    assert len(shards) > 1
    assert {name: bad.get(name) for name in shards} == {name: good[name] for name in shards}
    assert set(operator.metrics) == METRICS
    assert any("running" in state for state in operator.states)
