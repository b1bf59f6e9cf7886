"""Requests and bytes on object storage, counted by a server process on loopback (moto): of a dry run, of workers, of bookkeeping.

Stages that cost nothing stand in for the models; tables, commits, shards and requests are real.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.harness import Measurement, main
from benchmarks.stress import growth
from jobs.report import identity
from jobs.reporting.facts import gather, no_index
from jobs.reporting.summary import format_plan
from jobs.runtime.drive import prepare, run_in_process
from jobs.runtime.plan import Plan, make_plan
from jobs.store.store import Store
from schemas.commit import Output
from schemas.spec import STAGES, PipelineSpec
from schemas.tables import Reject
from tests.jobs.growth.growing import GrowingSource, make_spec, use_counting_stages
from tests.s3_server import CREDENTIALS, Server, s3_server

ONCE = ("/audio/", "/control/", "/cards/")
"""The source, and what a worker asks once."""

COUNT = 60
SIZES = tuple(int(size) for size in os.environ.get("PARTITIONS", "1000,4000").split(","))
"""Of the bookkeeping over many partitions: `PARTITIONS=1000 python -m benchmarks.stress.storage` takes a quarter of the time."""
BATCH = 64
"""Objects that are put side by side."""


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
            rows = count_requests(folder, server, source)
            for partitions in SIZES:
                rows += bookkeeping(folder / str(partitions), server, partitions)
            return rows


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
    return [
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


def work_requests(plan: Plan, server: Server) -> Counter[str]:
    """Requests by kind of doing what is pending, by workers and the driver."""
    prepare(plan)
    server.requests()
    run_in_process(plan, STAGES)
    asked = Counter(kind for kind, key, *_ in server.requests() if not any(part in key for part in ONCE))
    return asked


def bookkeeping(folder: Path, server: Server, partitions: int) -> list[Measurement]:
    """Requests of each step over so many finished partitions, one in ten with rejects. Tables are objects of a hundred bytes."""
    spec = fill(folder, partitions)
    rows = []
    with stand_in_rejects():
        for name, step in STEPS.items():
            server.requests()
            step(spec)
            asked = Counter(kind for kind, *_ in server.requests())
            each = sum(asked.values()) / partitions
            rows.append(
                Measurement(
                    name=f"{name}, {partitions} partitions ({asked['LIST']} LIST, {sum(asked.values())} in all)",
                    value=each,
                    unit="requests a partition",
                    goal="< 0.1",
                    holds=each < 0.1,
                )
            )
    return rows


def fill(folder: Path, partitions: int) -> PipelineSpec:
    """The spec of an output on the storage in which all is done."""
    import s3fs

    folder.mkdir()
    here = growth.make_spec(folder)
    with growth.made_up_listings(Store(here.output)):
        growth.set_up(here, partitions, committed=True, one_in=10)
    root = f"bucket/{partitions}"
    storage = s3fs.S3FileSystem()
    for part in ("commits", "inventory", "layout.json"):
        storage.put(f"{here.output}/{part}", f"{root}/{part}", recursive=True)
    for listing in sorted((Path(here.output) / growth.LISTINGS).iterdir()):
        names = pq.read_table(listing).column("name").to_pylist()
        place = listing.stem.replace("tables-", "tables/")
        storage.pipe({f"{root}/{place}/{name}": bytes(100) for name in names}, batch_size=BATCH)
    return here.with_updates(output=f"s3://{root}")


@contextmanager
def stand_in_rejects() -> Iterator[None]:
    """Each table of rejects is fetched, and taken to hold one."""
    honest = Store.read_table
    reject = Reject(
        stage="segments", id="a", code="no_speech", detail="no speech", retriable=False, attempts=1, seconds=1.0
    )

    def read_table(store: Store, row: Any, output: Output) -> list[Any]:
        store.read_bytes(output.path)
        return [reject]

    Store.read_table = read_table  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Store.read_table = honest  # type: ignore[method-assign]


def standing(spec: PipelineSpec) -> None:
    """What `lst verify` begins with: whether all is committed and there. Then it reads every file, which is its purpose."""
    plan = make_plan(spec, recorded=True)
    assert plan.is_complete()
    assert not plan.damaged


def report(spec: PipelineSpec) -> None:
    """`lst report`: whether its page is of this output, and what it says, but for at most 32 shards of which it draws."""
    identity(spec, Store(spec.output), None)
    plan = make_plan(spec, recorded=True)
    gather(plan, no_index(plan))


STEPS: dict[str, Callable[[PipelineSpec], object]] = {
    "dry run": growth.dry_run,
    "summary": growth.summary,
    "verify: what is there": standing,
    "report": report,
    "gc": growth.garbage,
    "gc --stale": growth.stale,
}


if __name__ == "__main__":
    main(run, __doc__)
