"""Requests and bytes on object storage, counted by a server process on loopback (moto): of a dry run, of workers, of bookkeeping.

Stages that cost nothing stand in for the models; tables, commits, shards and requests are real.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.harness import Measurement, main
from jobs.gc import collect
from jobs.reporting.summary import format_plan
from jobs.runtime.accounting import totals
from jobs.runtime.drive import prepare, run_in_process
from jobs.runtime.plan import Plan, make_plan, refresh
from schemas.spec import STAGES, PipelineSpec
from tests.jobs.growth.growing import GrowingSource, make_spec, use_counting_stages
from tests.s3_server import CREDENTIALS, Server, s3_server

ONCE = ("/audio/", "/control/", "/cards/")
"""The source, and what a worker asks once."""

COUNT = 60


def run() -> list[Measurement]:
    """A corpus of COUNT files of a second, from s3 to s3."""
    import s3fs

    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        folder = Path(place)
        (folder / "server").mkdir()
        with s3_server(folder / "server") as server:
            os.environ.update({**CREDENTIALS, "AWS_ENDPOINT_URL": server.url})
            use_counting_stages(patch)
            s3fs.S3FileSystem().mkdir("bucket")
            source = GrowingSource(folder / "audio", random.Random(1))
            put(source, COUNT)
            return count_requests(folder, server, source)


def put(source: GrowingSource, count: int) -> None:
    """So many files more, here and on the storage."""
    import s3fs

    for _ in range(count):
        source.add()
    source.write_manifest()
    s3fs.S3FileSystem().put(f"{source.folder}/", "bucket/audio/", recursive=True)


def count_requests(folder: Path, server: Server, source: GrowingSource) -> list[Measurement]:
    """The rows."""
    spec = make_spec("s3://bucket/audio", "s3://bucket/out", folder / "centroids")
    server.requests()
    plan = make_plan(spec)
    requests = server.requests()
    fetched = sum(sent for kind, key, _, sent in requests if kind == "GET" and "/audio/" in key)
    fetched_each = fetched / len(source.files) / 1e6
    format_plan(make_plan(spec, recorded=True))
    again = sum(kind == "GET" and "/audio/" in key for kind, key, *_ in server.requests())
    asked = work_requests(plan, server)
    work = len(plan.partitions) * (len(STAGES) - 1)
    before = len(plan.partitions), bookkeeping_requests(spec, server)
    put(source, COUNT)
    plan = make_plan(spec)
    work_requests(plan, server)
    rows = [
        Measurement(
            name="first dry run, of a source",
            value=fetched_each,
            unit="MB a file",
            goal="<= 0.1",
            holds=fetched_each <= 0.1,
        ),
        Measurement(name="next dry run, of the source", value=again, unit="GET", goal="0", holds=again == 0),
        Measurement(
            name="workers and driver, a partition and stage",
            value=sum(asked.values()) / work,
            unit="requests",
            goal="<= 8",
            holds=sum(asked.values()) <= 8 * work,
        ),
        Measurement(name="of these", value=asked["LIST"], unit="LIST in all", goal="none by workers"),
    ]
    # The number of log parts grows with the logarithm of the partitions (tests/jobs/runtime/test_commit_log.py).
    for partitions, steps in (before, (len(plan.partitions), bookkeeping_requests(spec, server))):
        for step, count in steps.items():
            name = f"{step} when all is done, {partitions} partitions"
            rows.append(Measurement(name=name, value=count, unit="requests in all"))
    return rows


def work_requests(plan: Plan, server: Server) -> Counter[str]:
    """Requests by kind of doing what is pending, by workers and the driver. The output is complete after it."""
    prepare(plan)
    server.requests()
    run_in_process(plan, STAGES)
    asked = Counter(kind for kind, key, *_ in server.requests() if not any(part in key for part in ONCE))
    refresh(plan)
    for log in plan.logs.values():
        log.gather()
    return asked


def bookkeeping_requests(spec: PipelineSpec, server: Server) -> dict[str, int]:
    """Requests of each step that goes through all commits."""
    plan = make_plan(spec, recorded=True)
    steps: dict[str, Callable[[], object]] = {
        "dry run": lambda: format_plan(make_plan(spec, recorded=True)),
        "summary": lambda: [totals(plan, stage) for stage in plan.stages],
        "gc": lambda: collect(make_plan(spec, recorded=True), stale=False),
        "gc --stale": lambda: collect(make_plan(spec, recorded=True), stale=True),
    }
    counts = {}
    for name, step in steps.items():
        server.requests()
        step()
        counts[name] = len(server.requests())
    return counts


if __name__ == "__main__":
    main(run, __doc__)
