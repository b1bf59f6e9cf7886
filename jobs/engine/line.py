"""A worker of a pool: does the pool's stages on one partition after another, opens each model when it first needs it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from jobs.cluster.limits import FreedMemory, limit_libraries
from jobs.monitoring.work import join_pool
from jobs.runtime.job import AnyTask, Job
from jobs.runtime.worker import StageWorker
from pipeline.source.audio import SourceAudio
from pipeline.source.node_cache import NodeCache


class LineWorker:
    """Made by Ray, one per actor. Where it is given two tasks at once, one is read or written while the other is computed."""

    def __init__(
        self, job: Job, pool: str, stages: Sequence[str], most_bytes: int = 0, shares_audio: bool = False
    ) -> None:
        """`shares_audio`: other pools of this run read the same recordings."""
        join_pool(pool, job.spec.output, job.run_id)
        self._job, self._most_bytes = job, most_bytes
        self._lock, self._computing = threading.Lock(), threading.RLock()
        self._workers: dict[str, StageWorker] = {}
        self._freed = FreedMemory()
        limit_libraries(job.spec.resource(stages[0]).threads)
        self._audio = SourceAudio(job.spec.source.uri, node=NodeCache(job.run_id) if shares_audio else None)

    def where(self) -> str:
        """The id of the node that it runs on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def do(self, task: AnyTask, stages: Sequence[str]) -> AnyTask:
        """The task after these stages."""
        for stage in stages:
            self._worker(stage).do(task)
        self._freed.give_back()
        return task

    def _worker(self, stage: str) -> StageWorker:
        with self._lock:
            if stage not in self._workers:
                self._workers[stage] = StageWorker(
                    self._job,
                    stage,
                    audio=self._audio,
                    computing=self._computing,
                    make_room=self._make_room,
                    most_bytes=self._most_bytes,
                )
            return self._workers[stage]

    def _make_room(self) -> None:
        """Close all models: a process that is to take a partition apart loads its own."""
        for worker in self._workers.values():
            worker.close()
