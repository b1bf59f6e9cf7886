"""Requests and bytes on object storage, counted by a server process on loopback (moto): of a dry run, of workers, of bookkeeping.

Stages that cost nothing stand in for the models; tables, commits, shards and requests are real.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.harness import Measurement, main
from jobs.reporting.summary import format_plan
from jobs.runtime.drive import prepare, run_in_process
from jobs.runtime.plan import make_plan, refresh
from schemas.spec import STAGES
from tests.jobs.growing import Source, make_spec, use_counting_stages
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
            source = Source(folder / "audio", random.Random(1))
            for _ in range(COUNT):
                source.add()
            source.write_manifest()
            s3fs.S3FileSystem().put(f"{source.folder}/", "bucket/audio/", recursive=True)
            return count_requests(folder, server, len(source.files))


def count_requests(folder: Path, server: Server, files: int) -> list[Measurement]:
    """The rows."""
    spec = make_spec("s3://bucket/audio", "s3://bucket/out", folder / "centroids")
    server.requests()
    plan = make_plan(spec)
    fetched = sum(sent for kind, key, _, sent in server.requests() if kind == "GET" and "/audio/" in key) / files / 1e6
    format_plan(make_plan(spec, recorded=True))
    again = sum(kind == "GET" and "/audio/" in key for kind, key, *_ in server.requests())
    prepare(plan)
    server.requests()
    run_in_process(plan, STAGES)
    asked = Counter(kind for kind, key, *_ in server.requests() if not any(part in key for part in ONCE))
    work = len(plan.partitions) * (len(STAGES) - 1)
    refresh(plan)
    server.requests()
    format_plan(make_plan(spec, recorded=True))
    looked = len(server.requests())
    return [
        Measurement(
            name="first dry run, of a source", value=fetched, unit="MB a file", goal="<= 0.1", holds=fetched <= 0.1
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
        Measurement(
            name=f"dry run when all is done, {len(plan.partitions)} partitions", value=looked, unit="requests in all"
        ),
    ]


if __name__ == "__main__":
    main(run, __doc__)
