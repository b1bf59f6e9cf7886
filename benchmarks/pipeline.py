"""How much of the machine's time the pipeline spends in models: bare model calls against the same work as a Ray job.

A corpus of 24 minutes is made from the demo speech (each file repeated at slightly different gains, so that no two are equal).
Efficiency is core-seconds inside the stages / (wall seconds x cores) in the steady state: between the first and the last
commit of the busiest stage's pool. The time until the first commit is the start-up and is stated apart, as is the peak memory
of each worker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile
import yaml

from benchmarks.harness import Row, main

ROOT = Path(__file__).resolve().parents[1]
COPIES = 12
STAGES = ("recordings", "segments", "transcripts", "words", "units", "patches", "shards")


def run() -> list[Row]:
    """Rows: efficiency, start-up, audio per wall second, and the largest worker."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = make_corpus(Path(folder) / "audio")
        spec = write_spec(Path(folder))
        cores = os.cpu_count() or 1
        begin, memory = time.time(), Memory()
        command = [sys.executable, "jobs/tokenize_audio.py", "--config", str(spec), "--no-progress"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        with memory.watching(process.pid):
            code = process.wait()
        if code != 0:
            raise RuntimeError(f"the job ended with {code}")
        wall = time.time() - begin
        commits = read_commits(Path(folder) / "out")
    first = min(written - busy for written, busy in commits)
    last = max(written for written, _ in commits)
    busy = sum(busy for _, busy in commits)
    efficiency = busy / ((last - first) * cores)
    return [
        Row(
            name="efficiency in the steady state",
            value=efficiency,
            unit="core s / (wall s x cores)",
            goal=">= 0.90",
            holds=efficiency >= 0.90,
        ),
        Row(name="start-up before the first stage works", value=first - begin, unit="s"),
        Row(name="audio", value=seconds / 60, unit="min"),
        Row(name="real-time factor of the whole job", value=wall / seconds, unit="wall s / audio s"),
        Row(name="largest worker", value=max(memory.peak.values(), default=0) / 2**20, unit="MiB"),
        Row(name="all workers together", value=memory.peak_sum / 2**20, unit="MiB"),
    ]


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
    """The demo's spec on this corpus, two workers where the time goes."""
    document = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    document["source"] = {"uri": str(folder / "audio"), "name": "bench"}
    document["output"] = str(folder / "out")
    document["partitions"] = {"minutes": 1.0}
    document["resources"] = {"transcripts": {"workers": 2}}
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def read_commits(output: Path) -> list[tuple[float, float]]:
    """(time written, seconds busy) of every commit of a stage."""
    found = []
    for stage in STAGES:
        for path in output.glob(f"commits/{stage}/*/*.json"):
            found.append((path.stat().st_mtime, float(json.loads(path.read_text(encoding="utf-8"))["seconds_busy"])))
    return found


class Memory:
    """Peak resident memory of the Ray workers below a process, looked at twice a second."""

    def __init__(self) -> None:
        self.peak: dict[int, int] = {}
        self.peak_sum = 0
        self._ended = threading.Event()

    def watching(self, pid: int) -> Memory:
        """A context manager's worth of watching `pid`."""
        self._thread = threading.Thread(target=self._watch, args=(pid,), daemon=True)
        return self

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self, pid: int) -> None:
        while not self._ended.wait(0.5):
            now: dict[int, int] = {}
            try:
                for child in psutil.Process(pid).children(recursive=True):
                    if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::"):
                        now[child.pid] = child.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            for child_pid, size in now.items():
                self.peak[child_pid] = max(size, self.peak.get(child_pid, 0))
            self.peak_sum = max(self.peak_sum, sum(now.values()))


if __name__ == "__main__":
    main(run, __doc__)
