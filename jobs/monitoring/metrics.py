"""Counters and gauges for Prometheus, through Ray's own exporter; nothing where Ray is not running.

Ray serves them on every node (`ray start --metrics-export-port=8080`) and puts `ray_` before each name.
deploy/grafana/lst.json draws them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from schemas.audio import SAMPLE_RATE
from schemas.commit import Commit

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "lst_partitions": ("Partitions (or shards) committed.", ("stage", "pool")),
    "lst_audio_seconds": ("Seconds of audio that came into a stage.", ("stage", "pool")),
    "lst_busy_seconds": ("Wall seconds that workers spent inside a stage.", ("stage", "pool")),
    "lst_rows": ("Rows by what became of them: passed or rejected.", ("stage", "outcome")),
    "lst_rejects": ("Rejected rows by reject code.", ("stage", "code")),
    "lst_attempts": ("Partitions begun anew after a worker was lost with them.", ("stage",)),
}
"""Name -> what it counts, labels. Prometheus sees `ray_<name>_total`."""
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lst_pending_units": ("Partitions (or shards) that are still to be done.", ("stage",)),
    "lst_pending_audio_hours": ("Hours of audio that are still to be done.", ("stage",)),
    "lst_seconds_left": ("Estimated seconds until the run is done.", ()),
    "lst_pool_workers": ("Workers of a pool.", ("pool",)),
}
"""Name -> what it shows, labels; set by the driver. Prometheus sees `ray_<name>`."""


@cache
def _metric(name: str) -> Any:
    from ray.util import metrics

    if name in COUNTERS:
        return metrics.Counter(name, description=COUNTERS[name][0], tag_keys=COUNTERS[name][1])
    return metrics.Gauge(name, description=GAUGES[name][0], tag_keys=GAUGES[name][1])


def _on_ray() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def count(name: str, amount: float, labels: Mapping[str, str]) -> None:
    """Add to a counter."""
    if amount > 0 and _on_ray():
        _metric(name).inc(amount, tags=dict(labels))


def show(name: str, value: float, labels: Mapping[str, str]) -> None:
    """Set a gauge."""
    if _on_ray():
        _metric(name).set(value, tags=dict(labels))


def count_commit(commit: Commit, pool: str) -> None:
    """All that a commit adds to."""
    here = {"stage": commit.stage, "pool": pool}
    count("lst_partitions", 1, here)
    count("lst_audio_seconds", commit.samples_in / SAMPLE_RATE, here)
    count("lst_busy_seconds", commit.seconds_busy, here)
    for outcome, rows in (("passed", commit.rows_out), ("rejected", commit.rows_rejected)):
        count("lst_rows", rows, {"stage": commit.stage, "outcome": outcome})
    for code, rows in commit.rejects_by_code.items():
        count("lst_rejects", rows, {"stage": commit.stage, "code": code})
