"""Running a plan on Ray Data: one row is one partition, one map per stage, each stage a pool of actors.

Rows carry tasks and no data; tables go through the store, so the object store stays empty and the stages work on different
partitions at the same time. What there is to do is driven through in windows (jobs/runtime/drive.py).
"""

from __future__ import annotations

import pickle
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from jobs.cluster.limits import cuda_stages
from jobs.cluster.places import local_or_url
from jobs.cluster.session import ray_session
from jobs.monitoring.estimate import StageProgress, UnitHours
from jobs.monitoring.logs import LOG, forget_old_logs, log_folder
from jobs.monitoring.progress import Progress
from jobs.monitoring.watch import CommitWatch
from jobs.runtime.accounting import totals
from jobs.runtime.drive import AnyTask, drive, prepare
from jobs.runtime.job import Job, stop_path
from jobs.runtime.plan import Plan, refresh
from jobs.runtime.rejects import SPEC, RejectRate
from jobs.store.lease import Lease
from schemas.commands.cli import Stopped
from schemas.commit import KINDS
from schemas.config import ConfigError

SPARE_CPUS = 0.2
"""Left free for Ray Data's own tasks: with none it waits for ever without a word (ray issue 44687)."""


@dataclass(kw_only=True)
class Outcome:
    """What a run did: the plan after it, which units were pending before it, and the time it took."""

    plan: Plan
    worked_on: dict[str, np.ndarray]
    """Stage -> whether each unit was pending."""
    seconds: float
    start_up_seconds: float
    stopped: bool
    failed: Sequence[str] = ()
    """Why partitions were set aside."""


def run_plan(plan: Plan, stages: Sequence[str], lease: Lease, show_progress: bool | None = None) -> Outcome:
    """Bring the given stages to completion, as far as what they stand on is there.

    The progress bar is shown on a terminal, unless `show_progress` decides.

    Raises:
        ConfigError: the output cannot be written, a stage wants CUDA and has no GPU, or the worker pools do not fit the cluster.
    """
    begin = time.perf_counter()
    check_devices(plan, stages)
    for sentence in prepare(plan):
        LOG.warning("%s", sentence)
    plan.store.write_bytes(SPEC, plan.spec.model_dump_json(indent=1).encode("utf-8"))
    pending = {stage: ~plan.done[stage] for stage in stages}
    outcome = Outcome(plan=plan, worked_on=pending, seconds=0.0, start_up_seconds=0.0, stopped=False)
    if any(waiting.any() for waiting in pending.values()):
        forget_old_logs(plan.spec.output)
        with ray_session() as ray, stop_on_signal(plan) as stop:
            check_cluster(plan, stages, ray.cluster_resources())
            outcome.start_up_seconds = time.perf_counter() - begin
            LOG.info("%s", begun(plan, pending, stop.run_id, outcome.start_up_seconds))
            job = Job.of(plan, stop.run_id)
            with make_progress(
                plan, stages, bar=sys.stderr.isatty() if show_progress is None else show_progress
            ) as progress:
                rate = RejectRate(plan, stages)

                def execute(names: Sequence[str], tasks: list[AnyTask]) -> Iterator[AnyTask]:
                    for task in _execute(plan, job, names, tasks):
                        progress.heard(task.commits)
                        if rate.passes(task.commits):
                            plan.store.write_bytes(stop_path(stop.run_id), b"")
                        yield task

                def stopping() -> bool:
                    lease.check()
                    return stop.requested or rate.is_passed

                outcome.failed = drive(plan, stages, execute, stop.run_id, stopping)
        outcome.stopped = stop.requested
        refresh(plan)
    outcome.seconds = time.perf_counter() - begin
    return outcome


def begun(plan: Plan, pending: Mapping[str, np.ndarray], run_id: str, seconds: float) -> str:
    """What the run is about to do, and where its workers' logs are."""
    tasks = ", ".join(f"{int(waiting.sum())} {stage}" for stage, waiting in pending.items() if waiting.any())
    where = log_folder(plan.spec.output, run_id)
    logs = local_or_url(str(where)) if "://" not in plan.spec.output else f"lst/{run_id} under Ray's logs of each node"
    return f"Ray is up after {seconds:.0f} s; to do: {tasks}; the workers' logs: {logs}"


def _execute(plan: Plan, job: Job, stages: Sequence[str], tasks: list[AnyTask]) -> Iterator[AnyTask]:
    import ray

    from jobs.runtime.worker import StageWorker

    shares = cpu_shares(plan, stages, float(ray.cluster_resources().get("CPU", 0)))
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    for stage in stages:
        wanted = plan.spec.resource(stage)
        dataset = dataset.map(
            StageWorker,
            fn_constructor_kwargs={"job": job, "stage": stage, "pool": stage},
            compute=ray.data.ActorPoolStrategy(size=min(wanted.workers, len(rows))),
            num_cpus=shares[stage],
            num_gpus=wanted.gpus or None,
        )
    for row in dataset.iter_rows():
        yield pickle.loads(row["task"])


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
    """On SIGTERM or Ctrl-C finish what is in flight and begin nothing new; a second signal ends at once.

    So does the first, while workers start and none has begun a unit.
    """
    stop = _Stop()

    def request(number: int, _frame: object) -> None:
        if stop.requested or not plan.store.find(f"attempts/{stop.run_id}"):
            raise Stopped(signal.Signals(number).name)
        stop.requested = True
        LOG.warning("%s: finishing what is in flight; once more to end at once", signal.Signals(number).name)
        plan.store.write_bytes(stop_path(stop.run_id), b"")

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        plan.store.remove(stop_path(stop.run_id))


def make_progress(plan: Plan, stages: Sequence[str], bar: bool) -> Progress:
    """What shows how far the run is, from what the output holds and what its workers commit."""
    fingerprints = {stage: plan.stages[stage].fingerprint for stage in stages}
    return Progress(
        [stage_progress(plan, stage) for stage in stages],
        {stage: UnitHours(plan.units[stage], plan.unit_hours(stage)) for stage in stages},
        {stage: plan.spec.resource(stage).workers for stage in stages},
        CommitWatch(plan.store, fingerprints),
        bar=bar,
        is_local=plan.store.is_local,
    )


def stage_progress(plan: Plan, stage: str) -> StageProgress:
    """How far a stage is, by its commits that stand."""
    done, hours = plan.done[stage], plan.unit_hours(stage)
    known = totals(plan, stage)
    return StageProgress(
        stage=stage,
        units=len(done),
        hours=float(hours.sum()),
        units_done=int(done.sum()),
        hours_done=float(hours[done].sum()),
        busy_seconds=known.seconds_busy,
        rejects=known.rejects,
        is_awaited=not KINDS[stage].gathers,
    )
