"""From a plan to tasks and back: what there is to do, window by window, and the bookkeeping between windows.

A window is some thousand partitions and the shards that they fill. After it the commits that its workers reported are gathered
into the log, so nothing grows with the corpus but columns, and a kill leaves at most a window of single commit files.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import numpy as np

from jobs.monitoring.logs import LOG
from jobs.runtime.job import AnyTask, Job, PartitionTask, ShardTask
from jobs.runtime.plan import Plan, hop_of, retire
from jobs.runtime.takeover import HeldRows, member_id
from jobs.store.labels import members_read
from jobs.store.records import index_name, source_key
from pipeline.source.partitions import has_rows
from schemas.commit import KINDS, SHARDS, Commit

WINDOW = 1024
"""Partitions that Ray has rows for at a time."""
GATHER = 64
"""Fewer single commits than this stay as they are: a small run writes no parts."""

Execute = Callable[[Sequence[str], list[AnyTask]], Iterator[AnyTask]]
"""Runs tasks through stages and yields them as they come back."""


def prepare(plan: Plan) -> list[str]:
    """What the owner of an output does before work: check that it can be written, forget what does not stand, note the spec.

    Returns a sentence for each file that was set aside.
    """
    plan.store.write_layout()
    said = retire(plan)
    for log in plan.logs.values():
        log.gather(GATHER)
    if not plan.is_sample:
        write_spec(plan)
    return said


def write_spec(plan: Plan) -> None:
    """Note what the plan's index needs, which `gc --stale` of any spec then keeps."""
    name = index_name(plan.spec.source)
    document = {
        "spec": plan.spec.model_dump(mode="json"),
        "stages": {stage: entry.fingerprint for stage, entry in plan.stages.items()},
        "hop": hop_of(plan.stages),
        "inventory": source_key(plan.spec.source),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path = f"specs/{name}.json"
    try:
        known = json.loads(plan.store.read_bytes(path))
    except (FileNotFoundError, ValueError):
        known = {}
    if {**known, "when": ""} != {**document, "when": ""}:
        plan.store.write_bytes(path, json.dumps(document, indent=1).encode())


class Receipts:
    """The hashes of all committed tables of the plan's partitions: 32 bytes for each."""

    def __init__(self, plan: Plan, stages: Sequence[str]) -> None:
        self._of: dict[str, np.ndarray] = {}
        self._known: dict[str, np.ndarray] = {}
        for stage in stages:
            log = plan.logs[stage]
            texts = ("".join(table.column("sha256").to_pylist()) for table in log.written(["sha256"]))
            digests = np.frombuffer(b"".join(map(bytes.fromhex, texts)), np.uint8).reshape(-1, 32)
            rows = log.find(plan.units[stage])  # -1 where there is no commit, which is the row of zeros put at the end
            self._known[stage] = plan.done[stage] & (rows >= 0)
            self._of[stage] = np.append(digests, np.zeros((1, 32), np.uint8), axis=0)[rows]

    def of(self, number: int) -> dict[str, str]:
        """Stage -> sha256 of what is committed of a partition."""
        return {
            stage: column[number].tobytes().hex() for stage, column in self._of.items() if self._known[stage][number]
        }

    def add(self, task: PartitionTask) -> None:
        """What a task brought back."""
        for stage, digest in task.receipts.items():
            self._of[stage][task.number] = np.frombuffer(bytes.fromhex(digest), np.uint8)
            self._known[stage][task.number] = True


class TaskMaker:
    """Makes the tasks of partitions."""

    def __init__(self, plan: Plan, stages: Sequence[str]) -> None:
        self.plan, self.labels = plan, members_read(plan.spec)
        self.stages = [stage for stage in plan.stages if not KINDS[stage].gathers]
        self.receipts = Receipts(plan, self.stages)
        self.held = {
            stage: HeldRows(plan.logs[stage])
            for stage in stages
            if not KINDS[stage].gathers and len(plan.logs[stage]) and not plan.done[stage].all()
        }

    def of_partition(self, number: int) -> PartitionTask:
        """The task of a partition."""
        plan = self.plan
        task = PartitionTask(
            number=number,
            units={stage: plan.unit(stage, number) for stage in self.stages},
            items=plan.partitions[number].items,
            receipts=self.receipts.of(number),
        )
        files = [item for item in task.items if has_rows(item)]
        for stage, held in self.held.items():
            if not plan.done[stage][number]:
                wanted = [member_id(item, self.labels[stage]) for item in files]
                task.held[stage] = held.find(wanted)
        return task

    def of_shard(self, number: int) -> ShardTask | None:
        """The task of a shard; None while one of its partitions is not done."""
        plan = self.plan
        members = range(int(plan.group_cuts[number]), int(plan.group_cuts[number + 1]))
        receipts = [self.receipts.of(member) for member in members]
        if any(len(known) < len(self.stages) for known in receipts):
            return None
        units = [{stage: plan.unit(stage, member) for stage in self.stages} for member in members]
        return ShardTask(
            number=number, name=plan.unit(SHARDS, number), partitions=list(zip(units, receipts, strict=True))
        )


def drive(
    plan: Plan, stages: Sequence[str], execute: Execute, run_id: str, stopping: Callable[[], bool] = lambda: False
) -> list[str]:
    """Do what is pending of the given stages; why partitions were set aside, where some were."""
    make = TaskMaker(plan, stages)
    failed: list[str] = []
    first = [stage for stage in stages if not KINDS[stage].gathers]
    for partitions, groups in windows(plan, stages):
        names = [stage for stage in first if not plan.done[stage][partitions].all()]
        if partitions and names and not stopping():
            failed += _run(plan, make, names, [make.of_partition(number) for number in partitions], execute)
        if groups and not stopping():
            shards = [task for task in map(make.of_shard, groups) if task is not None]
            failed += _run(plan, make, [SHARDS], shards, execute) if shards else []
        for log in plan.logs.values():
            log.gather(GATHER)
    plan.store.remove_all(plan.store.find(f"attempts/{run_id}"))
    return failed


def _run(plan: Plan, make: TaskMaker, stages: Sequence[str], tasks: Sequence[AnyTask], execute: Execute) -> list[str]:
    failed = []
    made: dict[str, list[Commit]] = {}
    for task in execute(stages, list(tasks)):
        for commit in task.commits:
            made.setdefault(commit.stage, []).append(commit)
            plan.done[commit.stage][task.number] = True
        if isinstance(task, PartitionTask):
            make.receipts.add(task)
        if task.failed:
            failed.append(task.failed)
            LOG.warning("set aside for this run: %s", task.failed)
    for stage, commits in made.items():
        plan.logs[stage].add(commits)
    return failed


def windows(plan: Plan, stages: Sequence[str]) -> Iterator[tuple[list[int], list[int]]]:
    """Partitions and shards with something to do, in order: about WINDOW partitions at a time, and the shards that they end."""
    waiting = np.zeros(len(plan.partitions), bool)
    for stage in stages:
        if not KINDS[stage].gathers:
            waiting |= ~plan.done[stage]
    groups = ~plan.done[SHARDS] if SHARDS in stages else np.zeros(len(plan.group_cuts) - 1, bool)
    partitions: list[int] = []
    shards: list[int] = []
    for number, (start, stop) in enumerate(zip(plan.group_cuts.tolist(), plan.group_cuts[1:].tolist(), strict=False)):
        partitions += (start + np.flatnonzero(waiting[start:stop])).tolist()
        if groups[number]:
            shards.append(number)
        if len(partitions) >= WINDOW or len(shards) >= WINDOW:
            yield partitions, shards
            partitions, shards = [], []
    if partitions or shards:
        yield partitions, shards


def run_in_process(
    plan: Plan, stages: Sequence[str], tell: Callable[[str, int], None] = lambda stage, number: None
) -> list[str]:
    """Do what is pending without Ray, stage after stage, in this process; `tell` hears of each unit that was looked at.

    Returns why partitions were set aside, where some were.
    """
    from jobs.runtime.worker import StageWorker

    run_id = uuid.uuid4().hex[:12]
    job = Job.of(plan, run_id)

    def execute(names: Sequence[str], tasks: list[AnyTask]) -> Iterator[AnyTask]:
        for name in names:
            worker = StageWorker(job, name)
            for task in tasks:
                worker.do(task)
                tell(name, task.number)
            worker.close()
        yield from tasks

    return drive(plan, stages, execute, run_id)
