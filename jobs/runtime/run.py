"""Running a plan on Ray Data: one row is one partition, one map per stage, each stage a pool of actors.

Rows carry a partition's name and nothing else; tables go through the store, so the object store stays empty and the stages
work on different partitions at the same time.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from jobs.runtime.limits import cuda_stages
from jobs.runtime.plan import STAGES, Plan, refresh, retire, write_inventory
from jobs.runtime.rejects import SPEC, ended_by_rejects
from jobs.runtime.session import ray_session
from schemas.config import ConfigError

SPARE_CPUS = 0.2
"""Left free for Ray Data's own tasks: with none it waits for ever without a word (ray issue 44687)."""


@dataclass(kw_only=True)
class Outcome:
    """What a run did: the plan after it, which partitions were pending before it, and the time it took."""

    plan: Plan
    worked_on: dict[str, set[str]]
    seconds: float
    start_up_seconds: float
    stopped: bool


def run_plan(plan: Plan, stages: Sequence[str], show_progress: bool | None = None) -> Outcome:
    """Bring the given stages to completion, as far as what they stand on is there.

    The progress bar is shown on a terminal, unless `show_progress` decides.

    Raises:
        ConfigError: the output cannot be written, a stage wants CUDA and has no GPU, or the worker pools do not fit the cluster.
    """
    begin = time.perf_counter()
    check_devices(plan, stages)
    plan.store.check_writable()
    retire(plan)
    write_inventory(plan)
    plan.store.write_bytes(SPEC, plan.spec.model_dump_json(indent=1).encode("utf-8"))
    pending = {stage: set(plan.pending(stage)) for stage in stages}
    outcome = Outcome(plan=plan, worked_on=pending, seconds=0.0, start_up_seconds=0.0, stopped=False)
    rows = _rows(plan, stages)
    if rows:
        with ray_session() as ray, stop_on_signal(plan) as stop:
            check_cluster(plan, stages, ray.cluster_resources())
            outcome.start_up_seconds = time.perf_counter() - begin
            bar = progress(plan, stages, enabled=sys.stderr.isatty() if show_progress is None else show_progress)
            with bar, ended_by_rejects(plan, stages, stop.run_id):
                _execute(plan, stages, rows, stop.run_id)
        outcome.stopped = stop.requested
    refresh(plan)
    outcome.seconds = time.perf_counter() - begin
    return outcome


def _rows(plan: Plan, stages: Sequence[str]) -> list[dict[str, Any]]:
    """Partitions with something to do, in order; a shard alone is brought about by its last partition."""
    names = {name for stage in stages if stage != "shards" for name in plan.pending(stage)}
    if "shards" in stages:
        waiting = set(plan.pending("shards"))
        names |= {group.partitions[-1] for group in plan.groups if group.name in waiting}
    return [{"partition": partition.name} for partition in plan.partitions if partition.name in names]


def _execute(plan: Plan, stages: Sequence[str], rows: list[dict[str, Any]], run_id: str) -> None:
    import ray

    from jobs.runtime.job import Job
    from jobs.runtime.worker import StageWorker

    job = Job.of(plan, run_id)
    shares = cpu_shares(plan, stages, float(ray.cluster_resources().get("CPU", 0)))
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    for stage in stages:
        if not plan.pending(stage):
            continue
        wanted = plan.spec.resource(stage)
        dataset = dataset.map(
            StageWorker,
            fn_constructor_kwargs={"job": job, "stage": stage},
            compute=ray.data.ActorPoolStrategy(size=wanted.workers),
            num_cpus=shares[stage],
            num_gpus=wanted.gpus or None,
        )
    for _ in dataset.iter_rows():
        pass


def cpu_shares(plan: Plan, stages: Sequence[str], cpus: float) -> dict[str, float]:
    """CPUs that Ray sets aside per worker of each stage; what the spec leaves open shares what the cluster has left."""
    wanted = {stage: plan.spec.resource(stage) for stage in stages}
    fixed = sum(item.workers * item.cpus for item in wanted.values() if item.cpus is not None)
    open_workers = sum(item.workers for item in wanted.values() if item.cpus is None)
    share = min(1.0, max(cpus - SPARE_CPUS - fixed, 0.0) / open_workers) if open_workers else 0.0
    return {
        stage: item.cpus if item.cpus is not None else max(int(share * 100) / 100, 0.01)
        for stage, item in wanted.items()
    }


def check_devices(plan: Plan, stages: Sequence[str]) -> None:
    """Raises ConfigError where a stage wants CUDA and its workers would not be given a GPU to see."""
    for stage in cuda_stages(plan.spec):
        if stage in stages and not plan.spec.resource(stage).gpus:
            raise ConfigError(
                f"stages.{stage} has device: cuda and resources.{stage}.gpus is 0, so that its workers see no GPU",
                f"set resources.{stage}.gpus=1, or device: auto",
            )


def check_cluster(plan: Plan, stages: Sequence[str], resources: dict[str, float]) -> None:
    """Raises ConfigError, in words, when the worker pools do not fit the cluster: Ray would wait for ever."""
    for kind, field, spare in (("CPU", "cpus", SPARE_CPUS), ("GPU", "gpus", 0.0)):
        have = float(resources.get(kind, 0))
        pools = {stage: plan.spec.resource(stage) for stage in stages}
        wanted = {stage: item.workers * (getattr(item, field) or 0.0) for stage, item in pools.items()}
        total = sum(wanted.values())
        if total and total + spare > have:
            parts = ", ".join(f"{stage} {amount:g}" for stage, amount in wanted.items() if amount)
            raise ConfigError(
                f"the worker pools ask for {total:g} {kind}s ({parts}) and {spare:g} must stay free, but the cluster has "
                f"{have:g}: lower resources.<stage>.workers or .{field} in the spec, or add nodes"
            )


class _Stop:
    def __init__(self) -> None:
        self.run_id = uuid.uuid4().hex[:12]
        self.requested = False


@contextmanager
def stop_on_signal(plan: Plan) -> Iterator[_Stop]:
    """On SIGTERM or Ctrl-C finish what is in flight and begin nothing new; a second signal ends at once."""
    from jobs.runtime.job import stop_path

    stop = _Stop()

    def request(number: int, _frame: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        print(f"\n{signal.Signals(number).name}: finishing what is in flight; once more to end at once", flush=True)
        plan.store.write_bytes(stop_path(stop.run_id), b"")

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        plan.store.remove(stop_path(stop.run_id))


@contextmanager
def progress(plan: Plan, stages: Sequence[str], enabled: bool) -> Iterator[None]:
    """A bar over audio hours (the mean over the stages), with time left; fed by looking at the commits."""
    hours = {
        item.name: sum(entry.seconds or 0.0 for entry in item.items) / 3600 / len(stages) for item in plan.partitions
    }
    hours |= {
        group.name: sum(hours[member] for member in group.partitions) for group in plan.groups if "shards" in stages
    }
    total = sum(hours[unit] for stage in stages for unit in plan.units_of_work(stage))
    ended = threading.Event()

    def watch(bar: Any) -> None:
        done = 0.0
        while True:
            last = ended.wait(1.0 if plan.store.is_local else 15.0)
            counts, now = [], 0.0
            for stage in stages:
                names = plan.store.committed(stage, plan.stages[stage].fingerprint) & set(plan.units_of_work(stage))
                counts.append(f"{stage} {len(names)}/{len(plan.units_of_work(stage))}")
                now += sum(hours[name] for name in names)
            bar.set_postfix_str(" ".join(counts), refresh=False)
            bar.update(max(0.0, min(now, total) - done))
            done = max(done, now)
            if last:
                return

    form = (
        "{desc} {percentage:3.0f}% |{bar:20}| {n:.2f}/{total:.2f} audio h, {elapsed} gone, {remaining} left  {postfix}"
    )
    with tqdm(total=total or 1, desc="tokenize", bar_format=form, disable=not enabled, mininterval=1.0) as bar:
        watcher = threading.Thread(target=watch, args=(bar,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def stages_until(stage: str) -> tuple[str, ...]:
    """The stages up to and including one."""
    return STAGES[: STAGES.index(stage) + 1]
