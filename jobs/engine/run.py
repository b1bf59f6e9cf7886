"""Running a plan on Ray: tasks of partitions through pools of actors (jobs/engine/scheduler.py), window by window
(jobs/runtime/drive.py), with a bar, a count of rejects, and an ear for signals."""

from __future__ import annotations

import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np

from jobs.cluster.limits import cuda_stages
from jobs.cluster.places import local_or_url
from jobs.cluster.pools import Pool, check_embedded, fit_pools, shortage
from jobs.cluster.session import is_embedded, ray_session
from jobs.engine.scheduler import Scheduler
from jobs.monitoring.estimate import StageProgress, UnitHours
from jobs.monitoring.logs import LOG, forget_old_logs, log_folder
from jobs.monitoring.progress import Load, Progress
from jobs.monitoring.watch import CommitWatch
from jobs.runtime.accounting import totals
from jobs.runtime.drive import drive, prepare
from jobs.runtime.job import AnyTask, Job, stop_path
from jobs.runtime.plan import Plan, refresh
from jobs.runtime.rejects import SPEC, RejectRate
from jobs.store.lease import Lease
from schemas.commands.signals import Stopped, importing
from schemas.commit import KINDS
from schemas.config import ConfigError

NVIDIA = Path("/dev/nvidiactl")
"""Is there where a GPU is: known before Ray is up."""


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
    workers: Mapping[str, int] = field(default_factory=dict)
    """Stage -> workers that did it."""


def run_plan(plan: Plan, stages: Sequence[str], lease: Lease, show_progress: bool | None = None) -> Outcome:
    """Bring the given stages to completion, as far as what they stand on is there.

    The progress bar is shown on a terminal, unless `show_progress` decides.

    Raises:
        ConfigError: the output cannot be written, a stage wants CUDA and has no GPU, or the worker pools do not fit the machine.
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
            cluster = ray.cluster_resources()
            pools = fit_pools(plan.spec, stages, cluster)
            check_pools(plan, pools, cluster, embedded=is_embedded())
            outcome.start_up_seconds = time.perf_counter() - begin
            LOG.info("%s", begun(plan, pending, stop.run_id, outcome.start_up_seconds))
            job = Job.of(plan, stop.run_id)
            bar = sys.stderr.isatty() if show_progress is None else show_progress
            rate = RejectRate(plan, stages)

            def stopping() -> bool:
                lease.check()
                return stop.requested or rate.is_passed

            def sizes() -> dict[str, int]:
                return {pool.name: pool.least for pool in fit_pools(plan.spec, stages, ray.cluster_resources())}

            scheduler = Scheduler(ray, job, pools, stopping, resize=None if is_embedded() else sizes)
            stop.has_begun = lambda: scheduler.has_begun
            with make_progress(plan, stages, scheduler.load, bar) as progress:

                def execute(names: Sequence[str], tasks: list[AnyTask]) -> Iterator[AnyTask]:
                    for task in scheduler.run(names, tasks):
                        progress.heard(task.commits)
                        if rate.passes(task.commits):  # workers look for this file before they begin a unit
                            plan.store.write_bytes(stop_path(stop.run_id), b"")
                        yield task

                try:
                    outcome.failed = drive(plan, stages, execute, stop.run_id, stopping)
                    outcome.workers = scheduler.workers
                finally:
                    scheduler.close()
        outcome.stopped = stop.requested
        refresh(plan)
    outcome.seconds = time.perf_counter() - begin
    return outcome


def begun(plan: Plan, pending: Mapping[str, np.ndarray], run_id: str, seconds: float) -> str:
    """What the run is about to do, and where its workers' logs are."""
    stages: dict[int, list[str]] = {}
    for stage, waiting in pending.items():
        if waiting.any() and not KINDS[stage].gathers:
            stages.setdefault(int(waiting.sum()), []).append(stage)
    tasks = [f"{count} partitions of {', '.join(names)}" for count, names in stages.items()]
    tasks += [
        f"{int(waiting.sum())} {stage}" for stage, waiting in pending.items() if waiting.any() and KINDS[stage].gathers
    ]
    where = log_folder(plan.spec.output, run_id)
    logs = local_or_url(str(where)) if "://" not in plan.spec.output else f"lst/{run_id} under Ray's logs of each node"
    return f"Ray is up after {seconds:.0f} s; to do: {'; '.join(tasks)}; the workers' logs: {logs}"


def check_devices(plan: Plan, stages: Sequence[str]) -> None:
    """Raises ConfigError where a stage wants CUDA and its workers would not be given a GPU to see."""
    may_be_shared = plan.spec.resources == "auto" and (not is_embedded() or NVIDIA.exists())
    for stage in cuda_stages(plan.spec):
        if stage in stages and not may_be_shared and not plan.spec.resource(stage).gpus:
            raise ConfigError(
                f"stages.{stage} has device: cuda and resources.{stage}.gpus is 0, so that its workers see no GPU",
                f"set resources.{stage}.gpus=1, or device: auto",
            )


def check_pools(plan: Plan, pools: Sequence[Pool], cluster: Mapping[str, float], embedded: bool) -> None:
    """Say in words where the pools do not fit the cluster.

    Raises:
        ConfigError: nothing will be added to this machine, or a stage wants CUDA and there is no GPU to share.
    """
    if embedded:
        check_embedded(plan.spec, pools, cluster)
    elif missing := shortage(plan.spec, pools, cluster):
        LOG.warning("%s now: going on with what is here, and waiting for the rest", missing)
    wanting = [pool.name for pool in pools if not pool.gpus and set(pool.stages) & set(cuda_stages(plan.spec))]
    if wanting and (embedded or plan.spec.resources != "auto"):
        raise ConfigError(
            f"a stage of the pool {wanting[0]} has device: cuda, and there is no GPU for it",
            "set resources.<stage>.gpus=1, or device: auto",
        )


class _Stop:
    def __init__(self) -> None:
        self.run_id = uuid.uuid4().hex[:12]
        self.requested = False
        self.has_begun: Callable[[], bool] = lambda: False
        """Whether a worker has been given anything."""


@contextmanager
def stop_on_signal(plan: Plan) -> Iterator[_Stop]:
    """On SIGTERM or Ctrl-C finish what is in flight and begin nothing new; a second signal ends at once.

    So does the first, while workers start and none has begun a unit.
    """
    stop = _Stop()

    def request(number: int, frame: FrameType | None) -> None:
        if (stop.requested or not stop.has_begun()) and not importing(frame):
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


def make_progress(plan: Plan, stages: Sequence[str], pools: Callable[[], Mapping[str, Load]], bar: bool) -> Progress:
    """What shows how far the run is, from what the output holds, what its workers commit, and who has work (`pools`)."""
    fingerprints = {stage: plan.stages[stage].fingerprint for stage in stages}
    return Progress(
        [stage_progress(plan, stage) for stage in stages],
        {stage: UnitHours(plan.units[stage], plan.unit_hours(stage)) for stage in stages},
        pools,
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
