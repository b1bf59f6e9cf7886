"""What a worker says of the unit it works on: when it began and ended and in which pool, to the commit; the rest to its log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from jobs.monitoring.logs import LOG, log_to_file, working_on
from jobs.monitoring.metrics import count_commit
from schemas.audio import SAMPLE_RATE
from schemas.commit import Commit

IN_DRIVER = "in-process"
"""The pool of work that the driver does itself, without Ray."""
_pool = IN_DRIVER
_begun: ContextVar[datetime | None] = ContextVar("begun", default=None)


def join_pool(pool: str, output: str, run_id: str) -> None:
    """This process is a worker of a pool: it logs to its own file and its commits name the pool."""
    global _pool
    _pool = pool
    log_to_file(output, run_id, pool)
    LOG.info("a worker of the pool %s, process %d", pool, os.getpid())


@contextmanager
def unit_of_work(stage: str, unit: str) -> Iterator[None]:
    """The body works on this unit: the clock of its receipt runs from here."""
    token = _begun.set(datetime.now(UTC))
    try:
        with working_on(stage, unit):
            yield
    finally:
        _begun.reset(token)


def receipt() -> dict[str, str]:
    """What a commit's provenance says of who made it when: begun, ended (UTC, to the millisecond), pool, process."""
    now = datetime.now(UTC)
    return {
        "begun": (_begun.get() or now).isoformat(timespec="milliseconds"),
        "ended": now.isoformat(timespec="milliseconds"),
        "pool": _pool,
        "process": str(os.getpid()),
    }


def tell(commit: Commit) -> None:
    """A line in the worker's log, and the counters."""
    rejects = ", ".join(f"{count} {code}" for code, count in commit.rejects_by_code.items())
    LOG.info(
        "%d of %d rows, %.1f s of audio in %.1f s%s",
        commit.rows_out,
        commit.rows_in,
        commit.samples_in / SAMPLE_RATE,
        commit.seconds_busy,
        f"; rejected: {rejects}" if rejects else "",
    )
    count_commit(commit, _pool)
