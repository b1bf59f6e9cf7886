"""What a driver hands to its workers: the job, by which each worker knows its stage, and tasks, which carry no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.runtime.plan import Plan, StagePlan
from schemas.commit import Commit
from schemas.spec import PipelineSpec
from schemas.tables import InventoryItem

MAX_DEATHS = 2
"""A partition or a shard that took its worker down this often in one run is taken apart to find the row that does it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker needs to know; small, and the same for all workers of a run."""

    spec: PipelineSpec
    stages: Mapping[str, StagePlan]
    run_id: str

    @classmethod
    def of(cls, plan: Plan, run_id: str) -> Job:
        """What of a plan goes to every worker: its spec and fingerprints, without the inventory and the logs."""
        return cls(spec=plan.spec, stages=plan.stages, run_id=run_id)


@dataclass(frozen=True, kw_only=True)
class Held:
    """A commit that holds rows which a unit that is to be done wants."""

    unit: str
    sha256: str
    rejects_sha256: str | None
    members: dict[str, str]
    """As in the commit, those wanted."""
    seconds_busy: float
    """The wanted members' share."""


@dataclass(kw_only=True)
class PartitionTask:
    """A partition on its way through the stages: its files, what is committed of it, and what can be taken over."""

    number: int
    units: dict[str, str]
    """Stage -> name of the partition's unit."""
    items: tuple[InventoryItem, ...]
    receipts: dict[str, str] = field(default_factory=dict)
    """Stage -> sha256 of the committed table."""
    held: dict[str, list[Held]] = field(default_factory=dict)
    """Stage -> commits with rows of this partition."""
    commits: list[Commit] = field(default_factory=list)
    """Made in this run, so that the driver need not read them."""
    deaths: dict[str, int] = field(default_factory=dict)
    """Stage -> workers that died while they worked on it, in this run."""
    failed: str = ""
    """Why the partition was set aside in this run."""


@dataclass(kw_only=True)
class ShardTask:
    """A shard to be written: its partitions' units and receipts, in order."""

    number: int
    name: str
    commits: list[Commit] = field(default_factory=list)
    partitions: list[tuple[dict[str, str], dict[str, str]]]
    """Per partition: stage -> unit, stage -> sha256 of the table."""
    deaths: int = 0
    """Workers that died while they wrote it, in this run."""
    failed: str = ""


AnyTask = PartitionTask | ShardTask


def stop_path(run_id: str) -> str:
    """The file whose presence tells all workers of a run to begin nothing new."""
    return f"control/stop-{run_id}"


def death_path(run_id: str, stage: str, unit: str) -> str:
    """The file in which a worker that ends itself says why."""
    return f"attempts/{run_id}/{stage}/{unit}"
