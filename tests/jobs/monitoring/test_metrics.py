"""The metrics that workers and the driver set are those that Grafana draws, and Ray's exporter serves them under these names."""

import ast
import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from jobs.monitoring import metrics
from jobs.monitoring.metrics import COUNTERS, GAUGES, count_commit
from schemas.commit import Commit, Output

ROOT = Path(__file__).resolve().parents[3]
BOARD = ROOT / "deploy" / "grafana" / "lst.json"
SERVED = {f"ray_{name}_total": labels for name, (_, labels) in COUNTERS.items()} | {
    f"ray_{name}": labels for name, (_, labels) in GAUGES.items()
}


def example() -> Commit:
    """Ten rows of which two were rejected, in half a second."""
    return Commit(
        stage="words",
        fingerprint="f",
        partition="u",
        inputs={},
        outputs={"words": Output(path="p", sha256="s", bytes=1, rows=1)},
        rows_in=10,
        rows_out=8,
        rows_rejected=2,
        rejects_by_code={"align_failed": 2},
        samples_in=16_000 * 60,
        samples_out=0,
        samples_rejected=0,
        seconds_busy=0.5,
    )


def test_the_board_draws_every_metric_and_no_other() -> None:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert {name for query in queries for name in re.findall(r"\bray_\w+", query)} == set(SERVED)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in board["panels"])


def test_queries_select_and_group_by_labels_that_their_metrics_have() -> None:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel["targets"]:
            known = set.union(*(set(SERVED[name]) for name in re.findall(r"\bray_\w+", target["expr"])))
            grouped = re.findall(r"\bby \(([^)]*)\)", target["expr"])
            used = {label.strip() for group in grouped for label in group.split(",")}
            used |= set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            used |= set(re.findall(r'[{,]\s*(\w+)\s*[=!]~?"', target["expr"]))
            assert used <= known, target["expr"]


def test_each_metric_is_set_somewhere() -> None:
    """Every name is an argument of `count` or `show` in the code of the product."""
    named = set()
    for path in (ROOT / "jobs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("count", "show"):
                named |= {part.value for part in node.args[:1] if isinstance(part, ast.Constant)}
    assert set(COUNTERS) | set(GAUGES) <= named


def test_a_commit_is_counted_with_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: dict[tuple[str, str], float] = {}

    def count(name: str, amount: float, labels: dict[str, str]) -> None:
        assert set(labels) == set(COUNTERS[name][1])
        counted[name, labels.get("outcome") or labels.get("code") or labels["pool"]] = amount

    monkeypatch.setattr(metrics, "count", count)
    count_commit(example(), "line")
    assert counted == {
        ("lst_partitions", "line"): 1,
        ("lst_audio_seconds", "line"): 60.0,
        ("lst_busy_seconds", "line"): 0.5,
        ("lst_rows", "passed"): 8,
        ("lst_rows", "rejected"): 2,
        ("lst_rejects", "align_failed"): 2,
    }


def test_without_ray_nothing_is_counted_and_nothing_fails() -> None:
    count_commit(example(), "line")
    metrics.show("lst_seconds_left", 1.0, {})


def test_rays_exporter_serves_them() -> None:
    from jobs.cluster.session import ray_session

    with ray_session() as ray:

        @ray.remote(num_cpus=0)
        class Worker:
            def work(self) -> None:
                count_commit(example(), "line")
                metrics.count("lst_attempts", 1, {"stage": "words"})

        worker: Any = Worker.remote()
        ray.get(worker.work.remote())
        for name, (_, labels) in GAUGES.items():
            metrics.show(name, 3.0, dict.fromkeys(labels, "x"))
        node = ray.nodes()[0]
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        deadline, served = time.monotonic() + 60, ""
        while time.monotonic() < deadline and not all(f"\n{name}{{" in served for name in SERVED):
            time.sleep(1.0)
            try:
                with urllib.request.urlopen(address, timeout=10) as answer:
                    served = "\n" + answer.read().decode("utf-8")
            except OSError:
                continue
    missing = [name for name in SERVED if f"\n{name}{{" not in served]
    assert not missing, [line for line in served.splitlines() if "lst_" in line]
    rejected = next(line for line in served.splitlines() if line.startswith("ray_lst_rejects_total{"))
    assert 'code="align_failed"' in rejected
    assert rejected.endswith(" 2.0")
