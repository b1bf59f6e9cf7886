"""How much of the machine the pipeline spends in models: bare stage calls in one process against the same corpus as a Ray job.

A corpus of 26 minutes is made from the demo speech (each file repeated at slightly different gains, so that no two are equal).
Bare: every stage's `run`, called in a loop on one thread with its tables in memory, one such process per core at the same time,
each with its share of the partitions: cores that share caches and memory are as busy as they are in the job. Counted in
core-seconds of the calls alone. The job: `resources: auto`, a line with a worker per core.

Efficiency is bare core-seconds / (wall seconds x cores) in the steady state: from when the last worker has ended its first
partition, so that all models are open, to when the first worker has ended its last one (shards are made last and do not count),
counting the bare seconds of every stage's partitions by the share of their time that lies in between. What comes before and after
is stated apart, as is the efficiency from the first stage's first call to the last commit, what the processor time of the job
itself went to, how much of the machine other processes took, and peak memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
import yaml

from benchmarks.harness import ROOT, Measurement, child, main
from jobs.cluster.places import resolve_spec
from schemas.commit import SHARDS
from schemas.spec import STAGES

COPIES = 12


def run() -> list[Measurement]:
    """Rows: efficiency, start-up and tail, real-time factors of both, and memory."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = make_corpus(Path(folder) / "audio")
        spec = write_spec(Path(folder))
        cores = os.cpu_count() or 1
        begin, watch = time.time(), MemoryWatch()
        command = [sys.executable, "jobs/tokenize_audio.py", "--config", str(spec), "--no-progress"]
        with child(command, stdout=subprocess.DEVNULL) as process, watch.watching(process.pid):
            code = process.wait()
        if code != 0:
            raise RuntimeError(f"the job ended with {code}")
        wall = time.time() - begin
        commits = committed(spec)
        bare = bare_seconds(spec, cores)
    totals = {stage: sum(calls.values()) for stage, calls in bare.items()}
    first, last = min(commit.begun for commit in commits), commits[-1].ended
    begun, start, stop = steady_state(commits)
    inside = sum(bare[item.stage][item.partition] * item.share(start, stop) for item in commits if item.stage in bare)
    total = sum(totals.values())
    used, others = watch.seconds_between(start, stop)
    available = (stop - start) * cores
    efficiency = inside / available
    return [
        Measurement(
            name="efficiency in the steady state",
            value=efficiency,
            unit="bare core s / (wall s x cores)",
            rival="bare stage calls",
            rival_value=1.0,
            goal=">= 0.93",
            holds=efficiency >= 0.93,
        ),
        Measurement(
            name="efficiency from the first call to the last commit",
            value=total / ((last - first) * cores),
            unit="",
            goal=">= 0.80",
            holds=total / ((last - first) * cores) >= 0.80,
        ),
        Measurement(
            name="steady state: bare calls' share of the job's own processor time", value=100 * inside / used, unit="%"
        ),
        Measurement(
            name="steady state: what other processes took of the machine", value=100 * others / available, unit="%"
        ),
        Measurement(name="audio", value=seconds / 60, unit="min"),
        Measurement(
            name="start-up: until every worker has begun",
            value=begun - begin,
            unit="s",
            goal="<= 15",
            holds=begun - begin <= 15,
        ),
        Measurement(name="steady state", value=stop - start, unit="s", rival="bare, core seconds", rival_value=inside),
        Measurement(name="tail: after the first worker has nothing left", value=last - stop, unit="s"),
        Measurement(name="real-time factor of the whole job", value=wall / seconds, unit="wall s / audio s"),
        *(
            Measurement(name=f"bare {name}", value=spent / seconds, unit="core s / audio s")
            for name, spent in totals.items()
        ),
        Measurement(name="largest worker", value=max(watch.peak.values(), default=0) / 2**20, unit="MiB"),
        Measurement(
            name="all workers together",
            value=watch.peak_sum / 2**20,
            unit="MiB",
            goal="<= 3,584",
            holds=watch.peak_sum / 2**20 <= 3584,
        ),
    ]


def bare_seconds(spec: Path, cores: int, numbers: Sequence[int] | None = None) -> dict[str, dict[str, float]]:
    """Stage -> partition -> core-seconds of a plain call, from one process per core, all at once.

    `numbers`: of the partitions that are wanted; None: all.
    """
    commands = [
        [sys.executable, "-c", BARE, str(spec), str(share), str(cores), json.dumps(numbers)] for share in range(cores)
    ]
    bare: dict[str, dict[str, float]] = {}
    with ExitStack() as running:
        processes = [running.enter_context(child(item, stdout=subprocess.PIPE)) for item in commands]
        for process in processes:
            output, _ = process.communicate()
            if process.returncode != 0:
                raise RuntimeError(f"the bare calls ended with {process.returncode}")
            for stage, calls in json.loads(output.splitlines()[-1]).items():
                bare.setdefault(stage, {}).update(calls)
    return bare


BARE = """
import json, sys
from benchmarks.pipeline import bare_calls
bare_calls(sys.argv[1], *map(json.loads, sys.argv[2:]))
"""
"""Run in a process of its own, so that its threads are set before torch is loaded and its memory is not ours."""


def bare_calls(path: str, share: int, shares: int, numbers: Sequence[int] | None) -> None:
    """Print core-seconds per stage and partition, as JSON, of calling every stage in a plain loop over a share of the partitions
    of these numbers (None: of all).

    Partitions go round by partition, all stages one after the other, as the job's are: so all processes do the same kind of work.
    """
    from jobs.cluster.limits import limit_libraries
    from jobs.runtime.accounting import keep_common_segments
    from jobs.runtime.plan import make_plan
    from jobs.runtime.stages import build_stage
    from pipeline.source.audio import SourceAudio
    from schemas.config import load_config
    from schemas.spec import PipelineSpec

    limit_libraries(1)
    spec = resolve_spec(load_config(PipelineSpec, path), ROOT)
    audio = SourceAudio(spec.source.uri)
    stages = {name: build_stage(name, spec) for name in STAGES[:-1]}
    for stage in stages.values():
        stage.open()
    spent: dict[str, dict[str, float]] = {name: {} for name in stages}
    plan = make_plan(spec)
    wanted = range(len(plan.partitions)) if numbers is None else numbers
    for number in wanted[share::shares]:
        known: dict[str, Any] = {"inventory": list(plan.partitions[number].items)}
        for name, stage in stages.items():
            inputs = keep_common_segments({table: known[table] for table in stage.inputs})
            begin = time.process_time()
            known[name] = list(stage.run(inputs, audio).rows)
            spent[name][plan.unit(name, number)] = time.process_time() - begin
    print(json.dumps(spent))


def make_corpus(folder: Path) -> float:
    """Write the demo files `COPIES` times at different gains; returns seconds."""
    folder.mkdir(parents=True)
    total = 0.0
    for path in sorted((ROOT / "data/demo").glob("*.flac")):
        audio, rate = soundfile.read(path, dtype="float32")
        for copy in range(COPIES):
            soundfile.write(folder / f"{copy:02d}_{path.name}", audio * np.float32(1.0 - 0.03 * copy), rate)
            total += len(audio) / rate
    return total


def write_spec(folder: Path) -> Path:
    """The demo's spec on this corpus."""
    document = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    document["source"] = {"uri": str(folder / "audio"), "name": "bench"}
    document["output"] = str(folder / "out")
    document["partitions"] = {"minutes": 1.0}
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A stage's work on a partition, in seconds since the epoch."""

    stage: str
    partition: str
    process: str
    begun: float
    ended: float

    def share(self, start: float, stop: float) -> float:
        """The part of its time between two others."""
        return max(min(self.ended, stop) - max(self.begun, start), 0.0) / max(self.ended - self.begun, 1e-6)


def committed(spec: Path) -> list[Committed]:
    """The commits of a run, in the order in which they ended."""
    from jobs.runtime.plan import make_plan
    from schemas.config import load_config
    from schemas.spec import PipelineSpec

    plan = make_plan(load_config(PipelineSpec, spec))
    found = []
    for stage in STAGES:
        for commit in plan.commits(stage):
            said = commit.provenance
            begun, ended = (datetime.fromisoformat(said[name]).timestamp() for name in ("begun", "ended"))
            found.append(
                Committed(
                    stage=stage,
                    partition=commit.partition,
                    process=said["process"],
                    begun=max(begun, ended - commit.seconds_busy),
                    ended=ended,
                )
            )
    return sorted(found, key=lambda commit: commit.ended)


def steady_state(commits: list[Committed]) -> tuple[float, float, float]:
    """When every worker has begun, when every worker has ended its first partition, and when the first has ended its last."""
    of_worker: dict[str, list[Committed]] = {}
    for item in commits:
        if item.stage != SHARDS:
            of_worker.setdefault(item.process, []).append(item)
    own = list(of_worker.values())
    return (
        max(min(item.begun for item in items) for items in own),
        max(min(item.ended for item in items if item.stage == STAGES[-2]) for items in own),
        min(max(item.ended for item in items) for items in own),
    )


class MemoryWatch:
    """Peak memory of Ray workers below a process, and processor seconds of all below it and of the machine, twice a second."""

    def __init__(self) -> None:
        self.peak: dict[int, int] = {}
        self.peak_sum = 0
        self._used: dict[int, float] = {}
        self._samples: list[tuple[float, float, float]] = []
        self._ended = threading.Event()

    def watching(self, pid: int) -> MemoryWatch:
        """A context manager's worth of watching `pid`."""
        self._thread = threading.Thread(target=self._watch, args=(pid,), daemon=True)
        return self

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def seconds_between(self, start: float, stop: float) -> tuple[float, float]:
        """Processor seconds from `start` to `stop` (seconds since the epoch): of the watched processes, and of all others."""
        times, own, busy = (np.array(column) for column in zip(*self._samples, strict=True))
        mine = float(np.interp(stop, times, own) - np.interp(start, times, own))
        return mine, max(float(np.interp(stop, times, busy) - np.interp(start, times, busy)) - mine, 0.0)

    def _watch(self, pid: int) -> None:
        while not self._ended.wait(0.5):
            now: dict[int, int] = {}
            try:
                job = psutil.Process(pid)
                for child in [job, *job.children(recursive=True)]:
                    spent = child.cpu_times()
                    self._used[child.pid] = spent.user + spent.system
                    if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::"):
                        now[child.pid] = child.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            machine = psutil.cpu_times()
            busy = machine.user + machine.nice + machine.system
            self._samples.append((time.time(), sum(self._used.values()), busy))
            for child_pid, size in now.items():
                self.peak[child_pid] = max(size, self.peak.get(child_pid, 0))
            self.peak_sum = max(self.peak_sum, sum(now.values()))


if __name__ == "__main__":
    main(run, __doc__)
