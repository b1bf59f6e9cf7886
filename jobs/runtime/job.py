"""What a driver hands to its workers: the job, by which each worker knows its stage and where to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jobs.runtime.plan import Plan, StagePlan
from schemas.spec import PipelineSpec


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker needs to know; small, and the same for all workers of a run."""

    spec: PipelineSpec
    stages: Mapping[str, StagePlan]
    groups: Mapping[str, tuple[str, ...]]
    """Shard name -> its partitions."""
    run_id: str

    @classmethod
    def of(cls, plan: Plan, run_id: str) -> Job:
        """The job of a plan."""
        groups = {group.name: group.partitions for group in plan.groups}
        return cls(spec=plan.spec, stages=plan.stages, groups=groups, run_id=run_id)


def stop_path(run_id: str) -> str:
    """The file whose presence tells all workers of a run to begin nothing new."""
    return f"control/stop-{run_id}"
