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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from jobs.runtime.drive import AnyTask, drive, prepare
from jobs.runtime.job import Job, stop_path
from jobs.runtime.limits import cuda_stages
from jobs.runtime.plan import STAGES, Plan, refresh
from jobs.runtime.rejects import SPEC, RejectRate
from jobs.runtime.session import ray_session
from jobs.store.lease import Lease
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
        print(sentence, file=sys.stderr)
    plan.store.write_bytes(SPEC, plan.spec.model_dump_json(indent=1).encode("utf-8"))
    pending = {stage: ~plan.done[stage] for stage in stages}
    outcome = Outcome(plan=plan, worked_on=pending, seconds=0.0, start_up_seconds=0.0, stopped=False)
    if any(waiting.any() for waiting in pending.values()):
        with ray_session() as ray, stop_on_signal(plan) as stop:
            check_cluster(plan, stages, ray.cluster_resources())
            outcome.start_up_seconds = time.perf_counter() - begin
            job = Job.of(plan, stop.run_id)
            with progress(plan, stages, enabled=sys.stderr.isatty() if show_progress is None else show_progress) as bar:
                rate = RejectRate(plan, stages)

                def execute(names: Sequence[str], tasks: list[AnyTask]) -> Iterator[AnyTask]:
                    for task in _execute(plan, job, names, tasks):
                        bar(names, task)
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
            fn_constructor_kwargs={"job": job, "stage": stage},
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
    """On SIGTERM or Ctrl-C finish what is in flight and begin nothing new; a second signal ends at once."""
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
def progress(plan: Plan, stages: Sequence[str], enabled: bool) -> Iterator[Any]:
    """A bar over audio hours, with time left: the body gives it each task that came back."""
    if not enabled:
        with nullcontext():
            yield lambda names, task: None
        return
    hours: dict[str, np.ndarray] = {
        name: plan.unit_hours(name) for name in ("recordings", "shards") if name in plan.stages
    }
    steps = [names for names in ([name for name in stages if name != "shards"], ["shards"]) if set(names) & set(stages)]
    todo = {name: float(hours["recordings" if name != "shards" else name][~plan.done[name]].sum()) for name in stages}
    form = (
        "{desc} {percentage:3.0f}% |{bar:20}| {n:.2f}/{total:.2f} audio h, {elapsed} gone, {remaining} left  {postfix}"
    )
    counts = {"partitions": 0, "shards": 0}
    total = sum(todo.values()) / len(steps) or 1.0
    with tqdm(total=total, desc="tokenize", bar_format=form, mininterval=1.0) as bar:

        def advance(names: Sequence[str], task: AnyTask) -> None:
            kind = "shards" if "shards" in names else "partitions"
            counts[kind] += 1
            length = float(hours["shards" if kind == "shards" else "recordings"][task.number])
            bar.set_postfix_str(" ".join(f"{count} {name}" for name, count in counts.items() if count), refresh=False)
            bar.update(max(0.0, min(length * len(names) / len(steps), total - bar.n)))

        yield advance


def stages_until(stage: str) -> tuple[str, ...]:
    """The stages up to and including one."""
    return STAGES[: STAGES.index(stage) + 1]
