"""What a worker's death says of the tasks that it held: nothing where its node was lost, else that one of them may be why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.monitoring.metrics import count
from jobs.runtime.job import MAX_DEATHS, AnyTask, Job, PartitionTask, ShardTask, death_path
from jobs.store.store import Store
from schemas.commit import SHARDS
from schemas.tables import RejectCode

GIVE_UP = MAX_DEATHS + 3
"""Deaths after which a partition is set aside: also taken apart, something of it ends its worker."""
CAUSES = {"timeout": " took longer than it may", "out_of_memory": " took more memory than it may"}
"""Reject code that a worker noted before it ended itself -> what the driver says of the partition."""


@dataclass(frozen=True, kw_only=True)
class Death:
    """How a worker died, as far as Ray knows."""

    is_lost_node: bool
    """Its node is gone, or was taken back by whoever lent it."""
    is_memory: bool
    """Ray ended it, for its node was short of memory."""
    said: str

    @classmethod
    def of(cls, ray: Any, error: Exception, node: str) -> Death:
        """What Ray's error says, and whether the worker's node is still there."""
        said = " ".join(str(error).split())
        nodes = {entry["NodeID"]: entry["Alive"] for entry in ray.nodes()}
        lost = getattr(error, "preempted", False) or "node has died" in said or "node was terminated" in said
        return cls(
            is_lost_node=lost or (bool(node) and not nodes.get(node, False)),
            is_memory="memory pressure" in said or "out of memory" in said.lower(),
            said=said,
        )

    def sentence(self, pool: str, fates: Sequence[str]) -> str:
        """What an operator is told; `fates`: what becomes of the tasks that the worker held."""
        if self.is_lost_node:
            return f"a node was lost, and a worker of the pool {pool} with it: others go on with what it held"
        process = re.search(r"\bpid: (\d+) .*\bip: (\S+)", self.said)
        who = f" (process {process[1]} on {process[2]})" if process else ""
        if self.is_memory:
            why = "its node was short of memory"
        elif any(cause in fate for cause in CAUSES.values() for fate in fates):
            why = "it ended itself"
        elif "SYSTEM_ERROR" in self.said:
            why = "it was killed, or crashed in native code"
        else:
            why = self.said[:300]
        return f"a worker of the pool {pool} died{who}: {'; '.join([why, *filter(None, fates)])}"


def bring_back(store: Store, job: Job, task: AnyTask, stages: Sequence[str]) -> None:
    """Add to a task what its dead worker had committed of these stages."""
    if isinstance(task, ShardTask):
        return
    for stage in stages:
        if stage in task.receipts:
            continue
        try:
            commit = store.read_commit(stage, job.stages[stage].fingerprint, task.units[stage])
        except FileNotFoundError:
            return
        task.receipts[stage] = commit.outputs[stage].sha256
        task.commits.append(commit)


def count_death(store: Store, job: Job, task: AnyTask, stages: Sequence[str], death: Death) -> str:
    """Count a death against the stage of the task that was under way; where its cause is known, the next attempt is isolated.

    Returns:
        What becomes of the task, in words.
    """
    stage: str | None = SHARDS
    if isinstance(task, PartitionTask):
        stage = next((stage for stage in stages if stage not in task.receipts), None)
    if stage is None:
        return ""
    unit = task.name if isinstance(task, ShardTask) else task.units[stage]
    noted = _noted(store, death_path(job.run_id, stage, unit))
    known = death.is_memory or bool(noted)
    count("lst_attempts", 1, {"stage": stage})
    before = task.deaths if isinstance(task, ShardTask) else task.deaths.get(stage, 0)
    deaths = max(before + 1, MAX_DEATHS if known else 0)
    if isinstance(task, ShardTask):
        task.deaths, what = deaths, f"the shard {unit}"
    else:
        task.deaths[stage], what = deaths, f"{stage} of the partition {unit}"
    if deaths >= GIVE_UP:
        task.failed = f"{what}: {deaths} workers died of it; the last: {death.said[:300]}"
        return f"{what} is set aside"
    fate = "taken apart next, to find what does it" if deaths >= MAX_DEATHS else "tried again"
    return f"{what}{CAUSES.get(noted, '')}: {fate}"


def _noted(store: Store, path: str) -> RejectCode | str:
    try:
        return store.read_bytes(path).decode()
    except FileNotFoundError:
        return ""
