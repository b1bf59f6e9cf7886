"""Which workers do which stages: pools fitted to the cluster, or as the spec says.

A worker of the pool `line` does every stage that has no pool of its own: it opens each model once and carries a partition
through. No stage waits for another's pool, so all cores are busy whatever the stages cost. GPUs get pools of their own, which the
line feeds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import psutil

from jobs.cluster.limits import gpu_stages
from schemas.config import ConfigError
from schemas.spec import LINE, PipelineSpec, Resources

LINE_MEMORY = 2 << 30
"""Bytes that a worker of the line is taken to need where the spec does not say: 1.1 GiB with the demo's models."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Workers that do the same stages, and what each asks of the cluster."""

    name: str
    stages: tuple[str, ...]
    least: int
    most: int
    cpus: float
    gpus: float
    memory: int
    """Bytes; 0: nothing is set aside."""

    @property
    def depth(self) -> int:
        """Partitions that a worker holds at once: on a GPU one is read or written while another is computed."""
        return 2 if self.gpus else 1

    @property
    def options(self) -> dict[str, float | int]:
        """What Ray is asked for, per worker."""
        return {
            "num_cpus": self.cpus,
            "max_concurrency": self.depth,
            **({"num_gpus": self.gpus} if self.gpus else {}),
            **({"memory": self.memory} if self.memory else {}),
        }


def fit_pools(spec: PipelineSpec, stages: Sequence[str], cluster: Mapping[str, float]) -> list[Pool]:
    """The pools for these stages on a cluster with these resources (CPU, GPU, memory in bytes, as Ray counts them)."""
    said = fitted_to_gpus(spec, stages, cluster) if spec.resources == "auto" else dict(spec.resources)
    own = {stage: said[stage] for stage in stages if stage in said}
    rest = tuple(stage for stage in stages if stage not in own)
    cpus = float(cluster.get("CPU", 0))
    left = cpus - sum((item.workers or 1) * (1.0 if item.cpus is None else item.cpus) for item in own.values())
    wanted = {**own, LINE: _line(said.get(LINE, Resources()), left, cluster)} if rest else own
    share = _share(wanted.values(), cpus)
    return [
        Pool(
            name=name,
            stages=rest if name == LINE else (name,),
            least=item.workers or 1,
            most=item.max_workers or item.workers or 1,
            cpus=share if item.cpus is None else item.cpus,
            gpus=item.gpus,
            memory=round((item.memory_gib or 0) * 2**30),
        )
        for name, item in wanted.items()
    ]


def _line(said: Resources, cpus: float, cluster: Mapping[str, float]) -> Resources:
    """The line's resources with its number of workers: what the CPUs that are left hold, and the memory."""
    if said.workers is not None:
        return said
    workers = math.floor(cpus / (said.cpus or 1.0))
    if "memory" in cluster:
        each = said.memory_gib * 2**30 if said.memory_gib else LINE_MEMORY
        workers = min(workers, math.floor(cluster["memory"] / each))
    return said.model_copy(update={"workers": max(workers, 1)})


def _share(wanted: Iterable[Resources], cpus: float) -> float:
    """CPUs per worker of those whose spec leaves it open: what the others leave, evenly, at most 1."""
    pools = list(wanted)
    fixed = sum((item.workers or 1) * item.cpus for item in pools if item.cpus is not None)
    workers = sum(item.workers or 1 for item in pools if item.cpus is None)
    share = (
        min(1.0, max(cpus - fixed, 0.0) / workers) if workers and cpus else 1.0
    )  # what no node is there for yet takes one
    return max(math.floor(share * 100) / 100, 0.01)


def fitted_to_gpus(spec: PipelineSpec, stages: Sequence[str], cluster: Mapping[str, float]) -> dict[str, Resources]:
    """`resources: auto`: each stage with a network that may use a GPU gets one worker per GPU, and shares it with the others."""
    gpus = math.floor(cluster.get("GPU", 0))
    networks = [stage for stage in gpu_stages(spec) if stage in stages]
    if not gpus or not networks:
        return {}
    return {stage: Resources(workers=gpus, gpus=math.floor(100 / len(networks)) / 100) for stage in networks}


def shortage(spec: PipelineSpec, pools: Sequence[Pool], cluster: Mapping[str, float]) -> str:
    """What the spec asks for and the cluster does not have, in words; "" where it has all."""
    for kind, field in (("CPU", "cpus"), ("GPU", "gpus")):
        have = float(cluster.get(kind, 0))
        said = {} if spec.resources == "auto" else spec.resources
        wanted = {pool.name: pool.least * ((getattr(said.get(pool.name), field, None)) or 0.0) for pool in pools}
        total = sum(wanted.values())
        if total > have:
            parts = ", ".join(f"{name} {amount:g}" for name, amount in wanted.items() if amount)
            return f"the worker pools ask for {total:g} {kind}s ({parts}), but the cluster has {have:g}"
    return ""


def check_embedded(spec: PipelineSpec, pools: Sequence[Pool], cluster: Mapping[str, float]) -> None:
    """Raises ConfigError, in words, when the pools do not fit this machine, to which nobody will add anything."""
    if missing := shortage(spec, pools, cluster):
        raise ConfigError(missing, "lower resources.<stage>.workers, .cpus or .gpus in the spec, or add nodes")


def this_machine() -> dict[str, float]:
    """The resources that a Ray of this machine's own would have, but for GPUs, which Ray alone knows."""
    return {"CPU": float(os.cpu_count() or 1), "memory": 0.7 * psutil.virtual_memory().available}
