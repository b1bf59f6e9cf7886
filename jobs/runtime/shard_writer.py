"""Shards from committed tables, and the index that makes them a dataset."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.exports.card import NOT_STATED, data_card
from jobs.runtime.plan import Plan
from jobs.runtime.stages import unit_tokenizer_of
from jobs.runtime.store import Store
from pipeline.shards import Passage, build_sample, passages, records, write_shard
from pipeline.source.base import AudioReader
from schemas.arrow import RowType
from schemas.audio import SAMPLE_RATE
from schemas.commit import Commit
from schemas.shards import ShardEntry, ShardIndex
from schemas.tables import Patches, Recording, Segment, Transcript, Units, Word

if TYPE_CHECKING:
    from jobs.runtime.job import Job

LANGUAGE, LICENSE = "samples in language ", "samples under "
"""Prefixes of the sums of a shard's commit that the data card needs."""
TABLES_OF_A_SHARD = ("recordings", "segments", "transcripts", "words", "units", "patches")


def write_group(store: Store, job: Job, group: str, partitions: Sequence[str], audio: AudioReader) -> Commit:
    """Write the shard of a group of partitions. Order: partition, then recording, channel and time."""
    start = time.perf_counter()
    spec, plan = job.spec, job.stages["shards"]
    hop = unit_tokenizer_of(plan.cards)["hop"]
    cards = {card.kind: card.card_id for card in plan.cards}
    samples: list[dict[str, bytes | str]] = []
    inputs: dict[str, str] = {}
    segments_in, told = 0, set[str]()
    sums = {"samples": 0, "frames": 0, "words": 0, "patches": 0, "audio_samples": 0}
    for partition in partitions:
        reader = _Reader(store, job, partition)
        segments, recordings = reader.rows(Segment), reader.rows(Recording)
        complete = records(
            segments, reader.rows(Transcript), reader.rows(Word), reader.rows(Units), reader.rows(Patches)
        )
        inputs |= {f"{partition}/{table}": digest for table, digest in reader.hashes.items()}
        segments_in += len(complete)
        for passage in passages(
            recordings, segments, complete, spec.stages.shards.passage_seconds, spec.stages.shards.max_gap_seconds
        ):
            samples.append(build_sample(passage, spec.stages.shards, hop, cards, audio))
            _add(sums, passage)
            told.add(passage.recording.recording_id)
    sums["recordings"] = len(told)
    output = store.write_named("shards", group, ".tar", write_shard(samples), len(samples))
    return Commit(
        stage="shards",
        fingerprint=plan.fingerprint,
        partition=group,
        inputs=inputs,
        outputs={"shard": output},
        rows_in=segments_in,
        rows_out=segments_in,
        rows_rejected=0,
        rejects_by_code={},
        samples_in=sums["audio_samples"],
        samples_out=sums["audio_samples"],
        samples_rejected=0,
        sums=sums,
        seconds_busy=time.perf_counter() - start,
    )


class _Reader:
    def __init__(self, store: Store, job: Job, partition: str):
        self.store, self.job, self.partition = store, job, partition
        self.hashes: dict[str, str] = {}

    def rows(self, row: type[RowType]) -> list[RowType]:
        table = row.TABLE
        assert table in TABLES_OF_A_SHARD
        commit = self.store.read_commit(table, self.job.stages[table].fingerprint, self.partition)
        self.hashes[table] = commit.outputs[table].sha256
        return self.store.read_table(row, commit.outputs[table])


def _add(sums: dict[str, int], passage: Passage) -> None:
    sums["samples"] += 1
    for part in passage.parts:
        sums["frames"] += part.units.num_frames
        sums["words"] += len(part.words)
        sums["patches"] += len(part.patches.kind)
        length = part.segment.end - part.segment.start
        sums["audio_samples"] += length
        for name in (f"{LANGUAGE}{part.transcript.language}", f"{LICENSE}{passage.recording.license or ''}"):
            sums[name] = sums.get(name, 0) + length


def write_index(plan: Plan) -> ShardIndex:
    """Publish `shards/index.json`. Only called when every shard is committed: the index's presence means complete."""
    assert not plan.pending("shards")
    commits = plan.commits("shards")
    entries = [entry for entry in map(_entry, commits) if entry.samples]
    stage = plan.stages["shards"]
    index = ShardIndex(
        kind="speech",
        fingerprint=stage.fingerprint,
        **unit_tokenizer_of(stage.cards),
        cards={card.card_id: card for card in stage.cards},
        shards=entries,
        totals={
            name: sum(getattr(entry, name) for entry in entries)
            for name in ("samples", "frames", "words", "patches", "seconds", "bytes")
        }
        | _shares(commits),
    )
    plan.store.write_bytes("shards/index.json", (index.model_dump_json(indent=1) + "\n").encode("utf-8"))
    card = data_card(index, {name: index.totals.get(name, {}) for name in ("languages", "licenses")})
    plan.store.write_bytes("shards/README.md", card.encode("utf-8"))
    return index


def _shares(commits: Sequence[Commit]) -> dict[str, Any]:
    """Recordings, and seconds per language and licence; nothing where a commit was made before they were counted."""
    if not all("recordings" in commit.sums for commit in commits):
        return {}
    shares: dict[str, Any] = {"recordings": sum(commit.sums["recordings"] for commit in commits)}
    for name, prefix in (("languages", LANGUAGE), ("licenses", LICENSE)):
        samples: Counter[str] = Counter()
        for commit in commits:
            samples.update({key[len(prefix) :]: n for key, n in commit.sums.items() if key.startswith(prefix)})
        shares[name] = {key or NOT_STATED: samples[key] / SAMPLE_RATE for key in sorted(samples)}
    return shares


def _entry(commit: Commit) -> ShardEntry:
    output, sums = commit.outputs["shard"], commit.sums
    return ShardEntry(
        path=output.path.rsplit("/", 1)[-1],
        sha256=output.sha256,
        bytes=output.bytes,
        samples=sums["samples"],
        frames=sums["frames"],
        words=sums["words"],
        patches=sums["patches"],
        seconds=sums["audio_samples"] / SAMPLE_RATE,
    )
