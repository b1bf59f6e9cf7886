"""A corpus of a second per file and stages that cost nothing and count what they are asked: for histories of an output."""

from __future__ import annotations

import csv
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jobs.runtime import drive as drive_module
from jobs.runtime import stages as stages_module
from jobs.runtime import worker as worker_module
from jobs.runtime.drive import prepare, run_in_process
from jobs.runtime.plan import Plan, make_plan, refresh
from jobs.runtime.published import publish
from jobs.runtime.shard_index import write_index
from jobs.store import lease as lease_module
from jobs.store.lease import Lease
from jobs.store.store import Store
from pipeline.source.base import AudioReader
from pipeline.stage import Stage, StageResult
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.cards import Card
from schemas.config import parse_config
from schemas.shards import ShardIndex
from schemas.spec import STAGES, PipelineSpec
from schemas.storage.files import sha256
from schemas.tables import Recording, Segment, Transcript, Units, Word, segment_id
from tests.jobs.small_corpus import document, make_centroids

calls: Counter[tuple[str, str, str]] = Counter()
"""(stage, recording, what the stage read of its labels) -> how often a stage computed it."""
HOP = 640


class CountingStage:
    """Rows that follow from the input alone; `calls` counts them."""

    version = 1

    def __init__(self, name: str, inputs: tuple[str, ...]) -> None:
        self.name, self.inputs = name, inputs

    def cards(self) -> list[Card]:
        return []

    def open(self) -> None: ...

    def close(self) -> None: ...

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        rows: list[Row] = []
        for row in tables[self.inputs[0]]:
            if isinstance(row, Recording):
                calls[self.name, row.recording_id, ""] += 1
                rows.append(_segment(row))
            elif isinstance(row, Segment):
                calls[self.name, row.recording_id, ""] += 1
                rows.append(_units(row))
            elif isinstance(row, Transcript):
                calls[self.name, row.segment_id[:16], row.text] += 1
                rows += _words(row)
        return StageResult(rows=rows)


def _segment(row: Recording) -> Segment:
    return Segment(
        segment_id=segment_id(row.recording_id, 0, row.num_samples_16k),
        recording_id=row.recording_id,
        channel=-1,
        start=0,
        end=row.num_samples_16k,
        speech_prob=1.0,
        cut_reason="whole",
    )


def _units(row: Segment) -> Units:
    frames = (row.end - row.start) // HOP
    dice = random.Random(row.segment_id)
    return Units(
        segment_id=row.segment_id, num_frames=frames, units=[dice.randrange(16) for _ in range(frames)], tokenizer="t"
    )


def _words(row: Transcript) -> list[Word]:
    end = int(row.segment_id.split("-")[-1])
    texts, position, found = row.text.split(), 0, []
    for index, text in enumerate(texts):
        found.append(
            Word(
                segment_id=row.segment_id,
                word_index=index,
                text=text,
                char_start=position,
                char_end=position + len(text),
                start=end * index // len(texts),
                end=end * (index + 1) // len(texts),
                char_times=[],
                score=1.0,
                timing="aligned",
                aligner="t",
            )
        )
        position += len(text) + 1
    return found


def use_counting_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let segments, words and units be counted; recordings, transcripts, patches and shards are the real ones."""
    honest = stages_module.build_stage
    inputs = {"segments": ("recordings",), "words": ("transcripts", "segments"), "units": ("segments",)}

    def build(name: str, spec: PipelineSpec) -> Stage:
        return CountingStage(name, inputs[name]) if name in inputs else honest(name, spec)

    monkeypatch.setattr(worker_module, "build_stage", build)
    monkeypatch.setattr(lease_module, "BEAT", 3600.0)
    monkeypatch.setattr(drive_module, "GATHER", 3)
    monkeypatch.setattr(drive_module, "WINDOW", 4)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # the machine does not lose power here
    calls.clear()


class GrowingSource:
    """A folder of audio with a manifest, which changes."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self.folder, self.dice = folder, dice
        self.files: dict[str, dict[str, str]] = {}
        self._seed = 0
        folder.mkdir(parents=True)

    def add(self) -> None:
        """A new file, or now and then a second one with the bytes of another."""
        name = f"{self.dice.choice('abcd')}/{self._seed:03d}.wav"
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        if self.files and self.dice.random() < 0.1:
            path.write_bytes((self.folder / self.dice.choice(sorted(self.files))).read_bytes())
        elif self.dice.random() < 0.08:
            path.write_bytes(b"not audio %d" % self._seed)
        else:
            noise = np.random.default_rng(self._seed).uniform(-0.1, 0.1, self.dice.randrange(8_000, 24_000))
            soundfile.write(path, noise, SAMPLE_RATE)
        self.files[name] = {"transcript": f"word{self._seed} and more", "license": "CC0"}
        self._seed += 1

    def remove(self) -> None:
        """A file goes; its bytes may come back."""
        name = self.dice.choice(sorted(self.files))
        (self.folder / name).unlink()
        del self.files[name]

    def rename(self) -> None:
        """A file is called otherwise."""
        name = self.dice.choice(sorted(self.files))
        target = f"{self.dice.choice('abcd')}/renamed{self._seed:03d}.wav"
        (self.folder / target).parent.mkdir(exist_ok=True)
        (self.folder / name).rename(self.folder / target)
        self.files[target] = self.files.pop(name)
        self._seed += 1

    def move(self) -> None:
        """A folder is called otherwise."""
        folder = self.dice.choice(sorted({name.split("/")[0] for name in self.files}))
        target = f"moved{self._seed:03d}"
        (self.folder / folder).rename(self.folder / target)
        self.files = {name.replace(f"{folder}/", f"{target}/", 1): facts for name, facts in self.files.items()}
        self._seed += 1

    def touch(self) -> None:
        """The files are as they were, and look newer."""
        for name in self.files:
            os.utime(self.folder / name, ns=(self._seed, self._seed))
        self._seed += 1

    def replace(self) -> None:
        """A file has other sound under its name."""
        name = self.dice.choice(sorted(self.files))
        noise = np.random.default_rng(self._seed).uniform(-0.1, 0.1, self.dice.randrange(8_000, 24_000))
        soundfile.write(self.folder / name, noise, SAMPLE_RATE)
        self._seed += 1

    def annotate(self) -> None:
        """A column that no stage reads says something else."""
        for facts in self.files.values():
            facts["note"] = f"note {self.dice.randrange(9)}"

    def relabel(self) -> None:
        """All files have another licence."""
        for facts in self.files.values():
            facts["license"] = self.dice.choice(["CC0", "CC-BY", "PD"])

    def retell(self) -> None:
        """A file has another transcript."""
        self.files[self.dice.choice(sorted(self.files))]["transcript"] = f"other {self.dice.randrange(99)} words"

    def write_manifest(self) -> None:
        """manifest.tsv of what is there."""
        with open(self.folder / "manifest.tsv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, dialect="excel-tab")
            writer.writerow(["file", "transcript", "license", "note"])
            writer.writerows(
                [name, facts["transcript"], facts["license"], facts.get("note", "")]
                for name, facts in sorted(self.files.items())
            )


def make_spec(source: str, output: str, centroids: Path, minutes: float = 0.05, shard: float = 0.1) -> PipelineSpec:
    """The spec of a history: partitions of three files or so."""
    if not centroids.exists():
        make_centroids(centroids)
    raw = document(Path("x"), Path("y"), centroids, partitions={"minutes": minutes}, max_reject_rate=1.0)
    raw["source"]["uri"], raw["output"] = source, output
    raw["stages"]["shards"] = {"minutes": shard, "passage_seconds": 60}
    return parse_config(PipelineSpec, raw, origin="test")


class Killed(BaseException):
    """The process is gone."""


def run(spec: PipelineSpec, take_over: bool = False, asks: Callable[[], bool] = lambda: False) -> Plan:
    """A run to its end, by the owner of the output. `asks` says after which units it looks whether it still is that."""
    lease = Lease(Store(spec.output), "test")
    lease.acquire(take_over)

    def tell(stage: str, number: int) -> None:
        if asks():
            lease.confirm()

    try:
        plan = make_plan(spec)
        lease.confirm()
        prepare(plan)
        assert run_in_process(plan, STAGES, tell) == []
        lease.confirm()
        refresh(plan)
        assert plan.is_complete()
        write_index(plan)
        publish(plan)
    except Killed:
        lease._ended.set()  # the heart stops, and the lease is not released
        raise
    except BaseException:
        lease.release()
        raise
    lease.release()
    return plan


def known(plan: Plan) -> set[tuple[str, str]]:
    """(stage, id of a file) of all that is committed under the plan's fingerprints."""
    found = set()
    for stage, log in plan.logs.items():
        for members in log.read(["member_ids"]).column("member_ids").to_pylist():
            found |= {(stage, name) for name in members}
    return found


def shards_of(output: str | Path, name: str = "index") -> dict[str, str]:
    """The index, and the hash of each shard that it lists."""
    store = Store(str(output))
    index = store.read_bytes(f"shards/{name}.json").decode()
    listed = ShardIndex.model_validate_json(index).shards
    return {"index": index} | {entry.path: sha256(store.read_bytes(f"shards/{entry.path}")) for entry in listed}
