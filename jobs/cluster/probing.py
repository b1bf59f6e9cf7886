"""Looking into the new files of a source on a cluster's workers: a large corpus on object storage takes one process hours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from jobs.cluster.session import is_embedded, ray_session
from pipeline.source.probe import Looked, LookMany, look_at

LEAST = 1024
"""Fewer new files at a time than this are looked into by the driver, before a worker would have been asked."""
PIECE = 256
"""Files per task."""
CPUS = 0.5
"""Per task: it waits for the storage most of the time."""


@contextmanager
def probing() -> Iterator[LookMany]:
    """`look_at` on the workers of the cluster that RAY_ADDRESS names; on one machine its threads do it as fast."""
    with ExitStack() as stack:

        def look_many(uri: str, files: Sequence[tuple[str, int | None]]) -> Sequence[Looked | str]:
            if is_embedded() or len(files) < LEAST:
                return look_at(uri, files)
            ray = stack.enter_context(ray_session())
            task = ray.remote(num_cpus=CPUS)(look_at)
            pieces = [task.remote(uri, files[start : start + PIECE]) for start in range(0, len(files), PIECE)]
            try:
                return [looked for piece in ray.get(pieces) for looked in piece]
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error  # of the storage: what the driver would have been told

        yield look_many
