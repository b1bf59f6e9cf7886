"""Shards from committed tables."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Self

from jobs.cluster.limits import Guard, limit_libraries
from jobs.runtime.accounting import place_of
from jobs.runtime.isolation import Child, DiedError, Limits, failure
from jobs.runtime.stages import unit_tokenizer_of
from jobs.store.provenance import provenance
from jobs.store.store import Store, table_path
from pipeline.shards import Passage, SegmentRecord, build_sample, passages, records, speakers_of, write_shard
from pipeline.source.audio import SourceAudio
from pipeline.source.base import AudioReader
from schemas.arrow import RowType, to_rows
from schemas.audio import SAMPLE_RATE
from schemas.cards import CardKind
from schemas.commit import KINDS, SHARD_FOLDER, SHARDS, Commit
from schemas.errors import CredentialsError, StorageError
from schemas.spec import PipelineSpec
from schemas.tables import Patches, Recording, Reject, RejectCode, Segment, Transcript, Units, Word

if TYPE_CHECKING:
    from jobs.runtime.job import Job, ShardTask

Sample = dict[str, bytes | str]
Build = Callable[[Passage], Sample]

LANGUAGE, LICENSE = "samples in language ", "samples under "
SPEAKER = "samples of named speakers"
"""Prefixes of the sums of a shard's commit that the data card needs."""
BELIEF = ("doubtful_words", "samples_uncovered")
"""Sums of a shard's commit that say how far its words are to be believed."""
TABLES_OF_A_SHARD = tuple(row.TABLE for row in (Recording, Segment, Transcript, Word, Units, Patches))


def write_group(store: Store, job: Job, task: ShardTask, make: AbstractContextManager[Build]) -> Commit:
    """Write the shard of a group of partitions. Order: partition, then recording, channel and time. `make` gives the samples."""
    start = time.perf_counter()
    spec, plan = job.spec, job.stages[SHARDS]
    samples: list[Sample] = []
    rejects: list[Reject] = []
    inputs: dict[str, str] = {}
    segments_in, told = 0, set[str]()
    sums = {"samples": 0, "frames": 0, "words": 0, "patches": 0, "audio_samples": 0, **dict.fromkeys(BELIEF, 0)}
    with make as build:
        for units, receipts in task.partitions:
            reader = _Reader(store, units, receipts)
            segments, recordings = reader.rows(Segment), reader.rows(Recording)
            complete = records(
                segments, reader.rows(Transcript), reader.rows(Word), reader.rows(Units), reader.rows(Patches)
            )
            inputs |= {f"{units[table]}/{table}": receipts[table] for table in TABLES_OF_A_SHARD}
            segments_in += len(complete)
            for passage in passages(
                recordings, segments, complete, spec.stages.shards.passage_seconds, spec.stages.shards.max_gap_seconds
            ):
                for part, sample in _build(passage, build, rejects, task.deaths):
                    samples.append(sample)
                    _add(sums, part)
                    told.add(part.recording.recording_id)
    sums["recordings"] = len(told)
    shard = store.write_named(SHARD_FOLDER, task.name, ".tar", write_shard(samples), len(samples))
    outputs = {KINDS[SHARDS].output: shard}
    if rejects:
        outputs["rejects"] = store.write_table(Reject, rejects, task.name, plan.fingerprint)
    lost = round(sum(reject.seconds for reject in rejects) * SAMPLE_RATE)
    return Commit(
        stage=SHARDS,
        fingerprint=plan.fingerprint,
        partition=task.name,
        inputs=inputs,
        outputs=outputs,
        rows_in=segments_in,
        rows_out=segments_in - len(rejects),
        rows_rejected=len(rejects),
        rejects_by_code=dict(sorted(Counter(reject.code for reject in rejects).items())),
        samples_in=sums["audio_samples"] + lost,
        samples_out=sums["audio_samples"],
        samples_rejected=lost,
        sums=sums,
        seconds_busy=time.perf_counter() - start,
        provenance=provenance(),
    )


def make_here(
    job: Job, audio: AudioReader, limits: Limits, note: Callable[[RejectCode], object]
) -> AbstractContextManager[Build]:
    """Makes samples in this process, which ends, and says why to `note`, where one takes more time or memory than it may."""
    make = open_maker(job.spec, *_facts(job), audio)

    def build(passage: Passage) -> Sample:
        with Guard(limits.seconds(_seconds(passage)), limits.most_bytes, note):
            return make(passage)

    return nullcontext(build)


class MakeApart:
    """Makes samples in a process of its own, so that one that ends it is known; what dies without a reason is tried once more."""

    def __init__(self, job: Job, limits: Limits) -> None:
        self._arguments, self._limits = (job.spec, *_facts(job)), limits
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._child is not None:
            self._child.__exit__()
            self._child = None

    def __call__(self, passage: Passage) -> Sample:
        """The sample.

        Raises:
            DiedError: the process ended over it.
            Exception: what was raised there.
        """
        seconds = self._limits.seconds(_seconds(passage))
        outcome = self._ask(passage, seconds)
        if outcome == "worker_crashed":
            outcome = self._ask(passage, seconds)
        if isinstance(outcome, str):
            raise DiedError(outcome, seconds)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _ask(self, passage: Passage, seconds: float) -> Sample | Exception | RejectCode:
        if self._child is None:
            self._child = Child("writing shards", open_maker, self._arguments, self._limits.most_bytes).__enter__()
        outcome: Sample | Exception | RejectCode = self._child.ask(passage, seconds)
        if isinstance(outcome, str):
            self.__exit__()
        return outcome


def open_maker(
    spec: PipelineSpec, hop: int, cards: Mapping[CardKind, str], audio: AudioReader | None = None
) -> Callable[[Passage], Sample]:
    """What makes a sample of a passage; it reads the audio by itself where no reader is given."""
    limit_libraries(spec.resource(SHARDS).threads)
    reader = SourceAudio(spec.source.uri) if audio is None else audio
    return lambda passage: build_sample(passage, spec.stages.shards, hop, cards, reader)


def _facts(job: Job) -> tuple[int, dict[CardKind, str]]:
    cards = job.stages[SHARDS].cards
    return unit_tokenizer_of(cards)["hop"], {card.kind: card.card_id for card in cards}


def _seconds(passage: Passage) -> float:
    return sum(part.segment.end - part.segment.start for part in passage.parts) / SAMPLE_RATE


def _build(
    passage: Passage, build: Build, rejects: list[Reject], attempts: int = 0
) -> Iterator[tuple[Passage, Sample]]:
    """The passage's sample. Where making it raises, the segments that raise alone become rejects, and what stands between
    them passages of their own, since a rejected segment ends one; where none does, all of it is rejected."""
    try:
        yield passage, build(passage)
        return
    except (StorageError, CredentialsError):  # nobody knows what the audio is; the shard waits
        raise
    except Exception as error:
        whole = error
    errors = {part.segment.segment_id: _error(build, replace(passage, parts=(part,))) for part in passage.parts}
    if not any(errors.values()):
        errors = dict.fromkeys(errors, whole)
    for failed, group in groupby(passage.parts, lambda part: errors[part.segment.segment_id] is not None):
        if failed:
            rejects += [_reject(passage, part, errors[part.segment.segment_id] or whole, attempts) for part in group]
        else:
            yield from _build(replace(passage, parts=tuple(group)), build, rejects, attempts)


def _error(build: Build, passage: Passage) -> Exception | None:
    try:
        build(passage)
    except (StorageError, CredentialsError):
        raise
    except Exception as error:
        return error
    return None


def _reject(passage: Passage, part: SegmentRecord, error: Exception, attempts: int) -> Reject:
    segment = part.segment
    place = place_of(segment.segment_id, (passage.recording,), (segment,))
    return failure(SHARDS, segment.segment_id, error, attempts, (segment.end - segment.start) / SAMPLE_RATE, place)


class _Reader:
    def __init__(self, store: Store, units: dict[str, str], receipts: dict[str, str]):
        self.store, self.units, self.receipts = store, units, receipts

    def rows(self, row: type[RowType]) -> list[RowType]:
        table = row.TABLE
        assert table in TABLES_OF_A_SHARD
        digest = self.receipts[table]
        return to_rows(row, self.store.read_arrow(table_path(table, self.units[table], digest), digest))


def _add(sums: dict[str, int], passage: Passage) -> None:
    sums["samples"] += 1
    for part, speaker in zip(passage.parts, speakers_of(passage), strict=True):
        sums["frames"] += part.units.num_frames
        sums["words"] += len(part.words)
        sums["patches"] += len(part.patches.kind)
        sums["doubtful_words"] += sum(word.timing == "doubtful" for word in part.words)
        sums["samples_uncovered"] += sum(
            b - a for word in part.words for a, b in zip(word.uncovered[::2], word.uncovered[1::2], strict=True)
        )
        length = part.segment.end - part.segment.start
        sums["audio_samples"] += length
        for name in (f"{LANGUAGE}{part.transcript.language}", f"{LICENSE}{passage.recording.license or ''}"):
            sums[name] = sums.get(name, 0) + length
        if speaker is not None:
            sums[SPEAKER] = sums.get(SPEAKER, 0) + length
