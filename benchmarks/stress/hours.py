"""Peak memory over many hours of audio, and the line's efficiency at the partitions that production uses.

    HOURS=10 SPEECH=0.05 MINUTES=5 OUTPUT=runs/hours python -m benchmarks.stress.hours     memory
    HOURS=3 OUTPUT=runs/half-hours python -m benchmarks.stress.hours                       efficiency, 10 minutes on two cores

Recordings of 20 s to 15 minutes are made from the demo speech: its files in random order at random speeds and gains over noise,
so that no two recordings, and no two passages, are equal. The line runs on them as `lst tokenize` does; every two seconds the
resident memory and the processor seconds of the driver, of each worker and of Ray's own processes go to OUTPUT/memory.tsv. Ended
on the way and begun again, it goes on where it was.

Memory counts from when every worker is warm: all its models are open and it keeps as much decoded audio as it ever will. Of what
comes after, the first third is set beside the last: the peaks, and what the workers hold at least, which scatters by a hundredth
where peaks do by a tenth. A leak of a few MiB a partition shows there first.

Efficiency is that of benchmarks/pipeline.py in the steady state, but counted in processor seconds as well as in wall seconds:
hours are seldom had on a machine by itself. Bare calls are made of a few partitions of the steady state and scaled by their
audio, since the partitions are alike by construction.
"""

from __future__ import annotations

import csv
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import soundfile
import yaml

from benchmarks.harness import ROOT, Measurement, child, main
from benchmarks.pipeline import Committed, bare_seconds, committed, steady_state, write_spec
from jobs.runtime.plan import make_plan
from schemas.config import load_config
from schemas.spec import STAGES, PipelineSpec

HOURS = float(os.environ.get("HOURS", 10))
MINUTES = float(os.environ.get("MINUTES", 30))
"""Per partition."""
SPEECH = float(os.environ.get("SPEECH", 1.0))
"""Share of speech, the rest is pauses. With a twentieth, ten hours take the time of one: enough to see memory that grows."""
OUTPUT = Path(os.environ.get("OUTPUT", "runs/hours"))
SAMPLE_SECONDS = 2.0
RATE = 16_000
BARE = 2
"""Partitions of which bare calls are made, per core."""
WARM_HOURS = 1.5
"""Of audio, until a worker has opened its models and is full of audio (`pipeline.source.audio.KEEP_BYTES`: 70 minutes)."""
ROLES = ("driver", "worker", "ray")


def run() -> list[Measurement]:
    """Rows: what memory does after the warm-up, and the efficiency."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    make_corpus(OUTPUT / "audio", HOURS)
    spec = write_spec(OUTPUT.resolve())
    document = yaml.safe_load(spec.read_text(encoding="utf-8"))
    document["partitions"] = {"minutes": MINUTES}
    document["stages"]["shards"]["minutes"] = 60.0
    spec.write_text(yaml.safe_dump(document), encoding="utf-8")
    watch(spec, OUTPUT / "memory.tsv", OUTPUT / "said")
    numbers, hours = _partitions(spec)
    commits = committed(spec)
    return [*memory(commits, hours), *efficiency(spec, commits, numbers, hours)]


def make_corpus(folder: Path, hours: float, longest: float = 900.0) -> None:
    """Write what is not there yet of recordings that are `hours` long together, each from 20 s to `longest` seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths: list[float] = []
    dice = np.random.default_rng(0)
    while sum(lengths) < hours * 3600:
        lengths.append(float(np.exp(dice.uniform(np.log(20), np.log(longest)))))
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        list(pool.map(_write, [folder] * len(lengths), range(len(lengths)), lengths, chunksize=4))


def _write(folder: Path, number: int, seconds: float) -> None:
    path = folder / f"{number:05d}.flac"
    if path.exists():
        return
    dice = np.random.default_rng(number)
    speech = [soundfile.read(file, dtype="float32")[0] for file in sorted((ROOT / "data/demo").glob("*.flac"))]
    pieces, length = [], 0
    while length < seconds * RATE:
        piece, speed = speech[dice.integers(len(speech))], dice.uniform(0.95, 1.05)
        places = np.arange(0, len(piece) - 1, speed)
        pause = np.zeros(RATE // 2 + int(len(places) * (1 / SPEECH - 1)))
        pieces += [np.interp(places, np.arange(len(piece)), piece) * dice.uniform(0.6, 1.0), pause]
        length += len(places) + len(pause)
    audio = np.concatenate(pieces)[: int(seconds * RATE)]
    audio = audio + dice.normal(scale=3e-4, size=len(audio))
    begun = path.with_suffix(".begun")
    soundfile.write(begun, audio.astype(np.float32), RATE, format="FLAC")
    begun.rename(path)


def watch(spec: Path, samples: Path, said: Path) -> None:
    """Run the line and write memory and processor seconds of all its processes while it lasts."""
    command = [sys.executable, "jobs/tokenize_audio.py", "--config", str(spec), "--no-progress"]
    with (
        open(samples, "a", encoding="utf-8") as file,
        open(said, "a", encoding="utf-8") as log,
        child(command, stdout=log, stderr=log) as process,
    ):
        while process.poll() is None:
            time.sleep(SAMPLE_SECONDS)
            machine = psutil.cpu_times()
            file.write(f"{time.time():.0f}\tmachine\t0\t0\t{machine.user + machine.nice + machine.system:.1f}\n")
            file.writelines(_sample(process.pid))
            file.flush()
    if process.returncode != 0:
        raise RuntimeError(f"the line ended with {process.returncode}; what it said: {said}")


def _sample(pid: int) -> list[str]:
    lines = []
    try:
        job = psutil.Process(pid)
        everyone = [job, *job.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    for process in everyone:
        try:
            name, spent, size = process.cmdline()[:1], process.cpu_times(), process.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        role = "driver" if process is job else "worker" if name and name[0].startswith("ray::LineWorker") else "ray"
        lines.append(f"{time.time():.0f}\t{role}\t{process.pid}\t{size}\t{spent.user + spent.system:.1f}\n")
    return lines


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One process at one time, in seconds since the epoch."""

    time: float
    role: str
    pid: int
    rss: int
    used: float


def read_samples() -> list[Sample]:
    """All that was written of all runs of this output."""
    with open(OUTPUT / "memory.tsv", encoding="utf-8") as file:
        return [
            Sample(time=float(when), role=role, pid=int(pid), rss=int(rss), used=float(used))
            for when, role, pid, rss, used in csv.reader(file, delimiter="\t")
        ]


def memory(run_commits: Sequence[Committed], hours: Mapping[str, float]) -> list[Measurement]:
    """Peaks after the warm-up and what the workers hold at least, early against late. `hours`: of audio, by unit.

    Of the last run alone, where this output was ended and begun again.
    """
    commits = [item for item in run_commits if item.stage == STAGES[-2]]
    samples = read_samples()
    done = Measurement(name="audio done", value=sum(hours[item.partition] for item in commits), unit="h")
    last = max(sample.time for sample in samples if sample.role == "worker")
    workers = {str(sample.pid) for sample in samples if sample.role == "worker" and sample.time == last}
    ends = [[item.ended for item in commits if item.process == worker] for worker in workers]
    cold = math.ceil(WARM_HOURS * 60 / MINUTES)
    if any(len(ended) <= cold for ended in ends):
        return [done]  # too short to say
    begin, end = max(ended[cold - 1] for ended in ends), commits[-1].ended
    third = (end - begin) / 3
    early, late = (begin, begin + third), (end - third, end)
    peaks = [_against(f"peak, {role}", samples, role, max, early, late, most=1.05) for role in ROLES]
    return [done, *peaks, _against("least, worker", samples, "worker", min, early, late, most=1.02)]


def _against(
    name: str,
    samples: Sequence[Sample],
    role: str,
    extreme: Callable[[Sequence[int]], int],
    early: tuple[float, float],
    late: tuple[float, float],
    *,
    most: float,
) -> Measurement:
    """What the processes of a role held together at their extreme, between two times and between two later ones."""
    sizes = []
    for begin, end in (early, late):
        of_process: dict[int, list[int]] = defaultdict(list)
        for sample in samples:
            if sample.role == role and begin <= sample.time <= end:
                of_process[sample.pid].append(sample.rss)
        sizes.append(sum(map(extreme, of_process.values())) / 2**20)
    return Measurement(
        name=f"{name}: last third of the warm time",
        value=sizes[1],
        unit="MiB",
        rival="first third",
        rival_value=sizes[0],
        goal=f"<= {most:g} of the first",
        holds=sizes[1] <= most * sizes[0],
    )


def efficiency(
    spec: Path, commits: list[Committed], numbers: Mapping[str, int], hours: Mapping[str, float]
) -> list[Measurement]:
    """Bare calls against the wall and the processor seconds of the steady state. By unit: its partition, and hours of audio.

    Raises:
        RuntimeError: there is none.
    """
    cores = os.cpu_count() or 1
    _, start, stop = steady_state(commits)
    if stop <= start:
        raise RuntimeError(
            "a worker's first and last partition do not count: HOURS must hold three of MINUTES per core"
        )
    inside_of: dict[int, float] = defaultdict(float)
    for item in commits:
        if item.partition in numbers:
            inside_of[numbers[item.partition]] += item.share(start, stop) * (item.ended - item.begun)
    bare = bare_seconds(spec, cores, sorted(sorted(inside_of, key=inside_of.__getitem__)[-BARE * cores :]))
    per_hour = {stage: sum(calls.values()) / sum(hours[unit] for unit in calls) for stage, calls in bare.items()}
    inside = sum(_bare(item, per_hour, hours) * item.share(start, stop) for item in commits if item.stage in per_hour)
    own, machine = _used(read_samples(), start, stop)
    available = (stop - start) * cores
    return [
        Measurement(
            name=f"efficiency in the steady state, partitions of {MINUTES:g} minutes",
            value=inside / available,
            unit="bare core s / (wall s x cores)",
            goal=">= 0.95",
            holds=inside / available >= 0.95,
        ),
        Measurement(
            name="bare calls' share of all processor seconds of the run",
            value=inside / own,
            unit="",
            goal=">= 0.95",
            holds=inside / own >= 0.95,
        ),
        Measurement(name="processor seconds of the run", value=own / available, unit="of wall s x cores"),
        Measurement(name="processor seconds of others", value=(machine - own) / available, unit="of wall s x cores"),
        Measurement(name="steady state", value=stop - start, unit="s"),
    ]


def _partitions(spec: Path) -> tuple[dict[str, int], dict[str, float]]:
    """Unit -> the number of its partition, and -> hours of audio; of all stages but shards, whose units are named alike."""
    plan = make_plan(load_config(PipelineSpec, spec))
    numbers: dict[str, int] = {}
    hours: dict[str, float] = {}
    for stage in STAGES[:-1]:
        for number, length in enumerate(plan.unit_hours(stage)):
            numbers[plan.unit(stage, number)] = number
            hours[plan.unit(stage, number)] = float(length)
    return numbers, hours


def _bare(item: Committed, per_hour: Mapping[str, float], hours: Mapping[str, float]) -> float:
    return per_hour[item.stage] * hours[item.partition]


def _used(samples: list[Sample], start: float, stop: float) -> tuple[float, float]:
    """Processor seconds between two times: of the run, all its processes, and of the machine."""
    own: dict[int, tuple[float, float]] = {}
    for sample in samples:
        if start <= sample.time <= stop:
            least, _ = own.get(sample.pid, (sample.used, 0.0))
            own[sample.pid] = (least, sample.used)
    machine = own.pop(0)
    return sum(most - least for least, most in own.values()), machine[1] - machine[0]


if __name__ == "__main__":
    main(run, __doc__)
