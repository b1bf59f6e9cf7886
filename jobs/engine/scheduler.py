"""Tasks through pools of Ray actors: who does what next, who has died of what, and when a pool grows or shrinks.

A task waits at the pool of its next stage; a worker does all stages in a row that its pool has. Workers take what is furthest
along, so that few partitions are under way at a time, but first what a pool of GPUs with nothing in front of it is waiting for.
Nothing but tasks goes through Ray, and they carry no data: tables go through the store.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.cluster.pools import Pool
from jobs.engine.deaths import Death, bring_back, count_death
from jobs.monitoring.logs import LOG
from jobs.monitoring.progress import Load
from jobs.runtime.job import AnyTask, Job
from jobs.store.store import Store
from schemas.errors import TryAgain

LOOK_SECONDS = 1.0
"""How often the loop looks up where nothing comes back: whether the run is to stop, whether a pool is to shrink."""
RESIZE_SECONDS = 10.0
"""How often a cluster is asked how large it is."""
IDLE_SECONDS = 60.0
"""After this long without work, workers above a pool's least number are let go, and their nodes with them."""
STARTS = 8
"""Workers in a row that die before they have done anything: their node lacks something, so no others are tried. Fewer may be
killed for want of memory while all of them load at once."""
ASK_SECONDS = 1.0
"""Between two questions to a worker that cannot be reached, until Ray knows whether it is dead."""
SAY_SECONDS = 30.0
"""A pool without a single worker is spoken of after this long,"""
SAY_AGAIN_SECONDS = 60.0
"""and then this often."""


@dataclass(eq=False)
class Member:
    """A worker: its actor, and the tasks that it holds by Ray's reference to what comes back; the first is worked on."""

    pool: Pool
    actor: Any
    ready: Any
    """Ray's reference to its first answer; None once it has come."""
    node: str = ""
    holds: dict[Any, _Step] = field(default_factory=dict)
    in_doubt: list[_Step] = field(default_factory=list)
    """What it held when the way to it broke: whether it lives is asked by `ready`."""
    since: float = field(default_factory=time.monotonic)
    """When it last began or ended anything."""

    @property
    def has_work(self) -> bool:
        """Whether something is yet to come back from it."""
        return bool(self.holds or self.in_doubt)


@dataclass(frozen=True, kw_only=True)
class _Step:
    task: AnyTask
    stages: tuple[str, ...]
    """What the pool does of it."""
    left: tuple[str, ...]
    """What remains after that."""

    @property
    def is_suspect(self) -> bool:
        """Whether a worker died of it, or beside it: it goes alone, so that nothing else is suspected for its sake."""
        return bool(self.task.deaths)


class Scheduler:
    """Runs tasks on pools that it makes, and keeps the workers from one call of `run` to the next."""

    def __init__(
        self,
        ray: Any,
        job: Job,
        pools: Sequence[Pool],
        stopping: Callable[[], bool],
        resize: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        """`stopping` says whether to begin nothing more; `resize` gives the least size of each pool on the cluster as it is."""
        from jobs.engine.line import LineWorker

        self._ray, self._job, self._stopping = ray, job, stopping
        self._worker_class = ray.remote(max_restarts=0, max_task_retries=0)(LineWorker)
        self._pool_of = {stage: pool for pool in pools for stage in pool.stages}
        self._members: list[Member] = []
        self._least = {pool.name: pool.least for pool in pools}
        self._resize, self._resized = resize, time.monotonic()
        self._waiting: dict[str, dict[int, deque[_Step]]] = {pool.name: {} for pool in pools}
        self._failed_starts = 0
        self.has_begun = False
        """Whether a worker has been given anything."""
        self._speak_at = time.monotonic() + SAY_SECONDS
        self._store = Store(job.spec.output)

    def run(self, stages: Sequence[str], tasks: Sequence[AnyTask]) -> Iterator[AnyTask]:
        """Do these stages of the tasks; yields each when it has been through, or is set aside, or is not begun for a stop.

        Raises:
            Exception: what a worker raised, which is no fault of a row.
            TryAgain: workers die before they have done anything.
        """
        for task in tasks:
            self._enqueue(task, tuple(stages))
        pools = dict.fromkeys(self._pool_of[stage] for stage in stages)
        while self._num_waiting() or any(member.has_work for member in self._members):
            if self._stopping():
                yield from self._dismiss()
                if not any(member.has_work for member in self._members):
                    return
            self._look_at_cluster()
            for pool in pools:
                self._fit(pool)
                self._hand_out(pool)
            yield from self._wait()

    def close(self) -> None:
        """Let all workers go."""
        for member in self._members:
            self._ray.kill(member.actor)
        self._members.clear()

    @property
    def workers(self) -> dict[str, int]:
        """Stage -> workers that do it now."""
        return {
            stage: sum(member.pool is pool for member in self._members) or pool.least
            for stage, pool in self._pool_of.items()
        }

    def load(self) -> dict[str, Load]:
        """Pool -> its workers now. Another thread may ask."""
        ready = [member for member in list(self._members) if member.ready is None]
        return {
            pool.name: Load(
                workers=sum(member.pool is pool for member in ready),
                working=sum(member.pool is pool and bool(member.holds) for member in ready),
            )
            for pool in dict.fromkeys(self._pool_of.values())
        }

    # the queues -------------------------------------------------------------------------------------------------------

    def _enqueue(self, task: AnyTask, stages: tuple[str, ...], first: bool = False) -> None:
        pool = self._pool_of[stages[0]]
        together = next((n for n, name in enumerate(stages) if self._pool_of[name] is not pool), len(stages))
        step = _Step(task=task, stages=stages[:together], left=stages[together:])
        queue = self._waiting[pool.name].setdefault(len(stages), deque())
        (queue.appendleft if first else queue.append)(step)

    def _num_waiting(self, pool: Pool | None = None) -> int:
        queues = self._waiting.values() if pool is None else [self._waiting[pool.name]]
        return sum(len(queue) for by_length in queues for queue in by_length.values())

    def _take(self, pool: Pool) -> _Step | None:
        """The next step for a worker of this pool."""
        queues = [queue for _, queue in sorted(self._waiting[pool.name].items()) if queue]
        if not queues:
            return None
        hungry = [queue for queue in queues if queue[0].left and self._is_hungry(self._pool_of[queue[0].left[0]])]
        return (hungry or queues)[0].popleft()

    def _is_hungry(self, pool: Pool) -> bool:
        workers = [member for member in self._members if member.pool is pool]
        in_front = sum(len(member.holds) for member in workers) + self._num_waiting(pool)
        return bool(pool.gpus) and in_front < pool.depth * len(workers)

    def _dismiss(self) -> Iterator[AnyTask]:
        for by_length in self._waiting.values():
            for queue in by_length.values():
                while queue:
                    yield queue.popleft().task

    # the workers ------------------------------------------------------------------------------------------------------

    def _look_at_cluster(self) -> None:
        if self._resize is not None and time.monotonic() - self._resized > RESIZE_SECONDS:
            self._least, self._resized = dict(self._resize()), time.monotonic()

    def _fit(self, pool: Pool) -> None:
        """As many workers as there is work for, from the pool's least number to its greatest; idle ones above the least go."""
        members = [member for member in self._members if member.pool is pool]
        waiting, now = self._num_waiting(pool), time.monotonic()
        starting = sum(member.ready is not None for member in members)
        least = self._least[pool.name]
        wanted = least
        if waiting > pool.depth and not starting and all(member.holds for member in members):
            wanted = max(pool.most, least)
        coming = waiting + sum(len(member.holds) for member in self._members)
        for _ in range(min(wanted, max(coming, 1)) - len(members)):
            self._start(pool)
        for member in members[least:]:
            if not member.holds and not waiting and member.ready is None and now - member.since > IDLE_SECONDS:
                self._ray.kill(member.actor)
                self._members.remove(member)

    def _start(self, pool: Pool) -> None:
        shares_audio = len(self._waiting) > 1
        actor = self._worker_class.options(**pool.options).remote(
            self._job, pool.name, pool.stages, pool.memory, shares_audio
        )
        self._members.append(Member(pool=pool, actor=actor, ready=actor.where.remote()))

    def _hand_out(self, pool: Pool) -> None:
        """To those that hold least, one each in turn, while there is something and somebody to take it."""
        members = [member for member in self._members if member.pool is pool and member.ready is None]
        for depth in range(pool.depth):
            for member in members:
                alone = any(step.is_suspect for step in member.holds.values())
                if len(member.holds) != depth or alone or (step := self._take(pool)) is None:
                    continue
                if step.is_suspect and member.holds:
                    self._enqueue(step.task, step.stages + step.left, first=True)
                    continue
                self.has_begun = True
                member.holds[member.actor.do.remote(step.task, step.stages)] = step
                member.since = time.monotonic()

    def _wait(self) -> Iterator[AnyTask]:
        """Until something comes back, a little while at most; the tasks that are through."""
        owners = {member.ready: member for member in self._members if member.ready is not None}
        owners |= {reference: member for member in self._members for reference in member.holds}
        if not owners:
            time.sleep(LOOK_SECONDS)
            return
        arrived, _ = self._ray.wait(list(owners), num_returns=1, timeout=LOOK_SECONDS)
        self._say_if_alone()
        for reference in arrived:
            yield from self._back(owners[reference], reference)

    def _back(self, member: Member, reference: Any) -> Iterator[AnyTask]:
        try:
            value = self._ray.get(reference)
        except self._ray.exceptions.ActorUnavailableError:
            self._ask_whether_it_lives(member, reference)
            return
        except self._ray.exceptions.RayActorError as error:
            yield from self._died(member, error)
            return
        self._failed_starts, member.since = 0, time.monotonic()
        if reference is member.ready:
            member.ready, member.node = None, value
            for step in member.in_doubt:
                bring_back(self._store, self._job, step.task, step.stages)
                self._enqueue(step.task, step.stages + step.left, first=True)
            member.in_doubt.clear()
            return
        step = member.holds.pop(reference)
        if step.left and not value.failed:
            self._enqueue(value, step.left)
        else:
            yield value

    def _ask_whether_it_lives(self, member: Member, reference: Any) -> None:
        """The way to a worker broke. With its node lost Ray takes seconds to know it: until then nobody is at fault."""
        if reference is not member.ready:
            member.in_doubt.append(member.holds.pop(reference))
        if member.ready is None or reference is member.ready:
            time.sleep(max(member.since + ASK_SECONDS - time.monotonic(), 0.0))
            member.ready, member.since = member.actor.where.remote(), time.monotonic()

    def _died(self, member: Member, error: Exception) -> Iterator[AnyTask]:
        """Put what a dead worker held back to its queue, with what was committed of it, and count its death where it counts."""
        self._members.remove(member)
        death = Death.of(self._ray, error, member.node)
        fates = []
        steps = [*member.in_doubt, *member.holds.values()]
        for step in steps:
            bring_back(self._store, self._job, step.task, step.stages)
            if not death.is_lost_node:
                fates.append(count_death(self._store, self._job, step.task, step.stages, death))
        LOG.warning("%s", death.sentence(member.pool.name, fates))
        if not member.node and not death.is_lost_node:
            self._count_failed_start(error)
        for step in steps:
            if step.task.failed:
                yield step.task
            else:
                self._enqueue(step.task, step.stages + step.left, first=True)

    def _count_failed_start(self, error: Exception) -> None:
        if "creation task" in str(error):  # the constructor raised something: it is what there is to say
            raise error
        self._failed_starts += 1
        if self._failed_starts == STARTS:
            raise TryAgain(
                f"{STARTS} workers in a row died before they had done anything: {str(error).splitlines()[0]}",
                "look whether the nodes have the environment (the image, or a runtime_env) and the memory for it",
            )

    def _say_if_alone(self) -> None:
        """A sentence where a pool that has work has not one worker: the cluster is to grow, or to get a node back."""
        now = time.monotonic()
        alone = [pool for pool in dict.fromkeys(self._pool_of.values()) if self._is_alone(pool)]
        if not alone:
            self._speak_at = now + SAY_SECONDS
        elif now >= self._speak_at:
            self._speak_at = now + SAY_AGAIN_SECONDS
            LOG.warning("waiting for workers: %s", self._describe(alone[0]))

    def _is_alone(self, pool: Pool) -> bool:
        ready = [member.ready is None for member in self._members if member.pool is pool]
        return bool(ready) and not any(ready)

    def _describe(self, pool: Pool) -> str:
        wanted = sum(member.pool is pool for member in self._members)
        parts = [f"{pool.cpus:g} CPUs", f"{pool.gpus:g} GPUs" if pool.gpus else ""]
        parts.append(f"{pool.memory / 2**30:g} GiB" if pool.memory else "")
        have = self._ray.cluster_resources()
        return (
            f"the pool {pool.name} asks for {wanted} workers of {', '.join(filter(None, parts))} and none has started; "
            f"the nodes that are here have {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs"
        )
