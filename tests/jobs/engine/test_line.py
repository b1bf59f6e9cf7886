"""A worker that holds two partitions keeps its device busy: one is read and written while the other is computed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import jobs.engine.line as line_module
import jobs.runtime.worker as worker_module
from jobs.engine.line import LineWorker
from jobs.runtime.drive import TaskMaker, prepare, run_in_process
from jobs.runtime.job import Job
from jobs.runtime.plan import make_plan
from jobs.store.store import Store
from pipeline.source.base import AudioReader
from pipeline.stage import StageResult
from schemas.arrow import Row
from schemas.cards import Card
from schemas.spec import STAGES
from schemas.tables import Segment, Units
from tests.jobs.small_corpus import make_spec

DEVICE_SECONDS, STORE_SECONDS = 0.8, 0.1
"""So long that what a busy machine adds to a turn, some hundredths of a second, is little beside them."""


class SleepingDevice:
    """A stage whose network takes its time and no core; remembers when it worked."""

    name = "units"
    version = 1
    inputs: tuple[str, ...] = ("segments", "recordings")

    def __init__(self) -> None:
        self.worked: list[tuple[float, float]] = []
        self.opened = 0

    def cards(self) -> list[Card]:
        return []

    def open(self) -> None:
        self.opened += 1

    def close(self) -> None: ...

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        begin = time.monotonic()
        time.sleep(DEVICE_SECONDS)
        self.worked.append((begin, time.monotonic()))
        keys = [row.segment_id for row in tables["segments"] if isinstance(row, Segment)]
        return StageResult(rows=[Units(segment_id=key, num_frames=1, units=[1], tokenizer="t") for key in keys])


def test_a_device_waits_for_a_tenth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(tmp_path)
    plan = make_plan(spec)
    prepare(plan)
    assert run_in_process(plan, ("recordings", "segments")) == []
    plan = make_plan(spec)
    device = SleepingDevice()
    monkeypatch.setattr(worker_module, "build_stage", lambda name, spec: device)
    monkeypatch.setattr(line_module, "join_pool", lambda *arguments: None)
    for verb in ("read_arrow", "write_table", "publish"):
        honest = getattr(Store, verb)
        monkeypatch.setattr(Store, verb, lambda *args, honest=honest: (time.sleep(STORE_SECONDS), honest(*args))[1])
    make = TaskMaker(plan, STAGES)
    tasks = [make.of_partition(number % len(plan.partitions)) for number in range(8)]
    worker = LineWorker(Job.of(plan, "run"), "units", ("units",))
    with ThreadPoolExecutor(2) as calls:  # as Ray calls an actor with max_concurrency=2
        list(calls.map(lambda task: worker.do(task, ("units",)), tasks))
    assert device.opened == 1
    assert all(before[1] <= after[0] for before, after in zip(device.worked, device.worked[1:], strict=False))
    span = device.worked[-1][1] - device.worked[0][0]
    assert sum(end - begin for begin, end in device.worked) / span >= 0.9


def test_a_worker_gives_freed_memory_back_after_every_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(line_module, "join_pool", lambda *arguments: None)
    monkeypatch.setattr(line_module.FreedMemory, "give_back", lambda self: given.append(len(given)))
    plan = make_plan(make_spec(tmp_path))
    prepare(plan)
    make = TaskMaker(plan, ("recordings",))
    worker = LineWorker(Job.of(plan, "run"), "line", ("recordings",))
    for number in range(2):
        worker.do(make.of_partition(number), ("recordings",))
    assert given == [0, 1]
