"""A finished run made without any model: recordings of noise, and tables whose every number the test knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from jobs.runtime.accounting import key_of
from jobs.runtime.drive import TaskMaker, prepare
from jobs.runtime.isolation import Limits
from jobs.runtime.job import Job
from jobs.runtime.plan import Plan, make_plan, refresh
from jobs.runtime.published import publish
from jobs.runtime.shard_index import write_index
from jobs.runtime.shard_writer import make_here, write_group
from pipeline.patches import aligned_patches, word_frames
from pipeline.source.audio import SourceAudio
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.commit import Commit
from schemas.config import parse_config
from schemas.spec import STAGES, PipelineSpec
from schemas.tables import (
    TABLES,
    Patches,
    Recording,
    Reject,
    Segment,
    Transcript,
    Units,
    Word,
    recording_id,
    segment_id,
)
from tests.jobs.small_corpus import document, make_centroids

HOP = 640
NUM_UNITS = 16
SECONDS = (24.03, 3.0, 2.5, 2.0, 2.2, 1.9)
LONG = [(1600, 81_000), (88_000, 112_000), (113_000, 250_333), (250_900, 382_222)]
"""The segments of the first recording. The last two are one sample, longer than a strip, and do not end on whole frames."""
ODD_NAME = "<b>é & 'quoted'.wav"
BROKEN = "broken.wav"
SCRIPT = "<script>alert(1)</script>"
ESCAPE = "\x1b[31mred"
REJECT_DETAIL = f"the text {SCRIPT} cannot be aligned"
GIVEN_WORDS = (
    "so",
    SCRIPT,
    "my",
    "fellow",
    ESCAPE,
    "Mississippi",
    "日本語",
    "a",
    "I",
    "disproportionately",
    "is",
    "it",
)


def make_run(folder: Path, audio: bool = True) -> tuple[Plan, dict[str, list[Row]]]:
    """A finished run under `folder`: the plan and all its rows by table.

    The first recording has several segments, of which the second is rejected by `words`; one file cannot be decoded.
    """
    spec = make_spec(folder, audio)
    plan = make_plan(spec)
    prepare(plan)
    rows: dict[str, list[Row]] = {name: [] for name in TABLES}
    for partition in plan.partitions:
        mine = _rows(spec, [item.uri for item in partition.items])
        for stage in ("recordings", "segments", "transcripts", "words", "units", "patches"):
            rejects = [row for row in mine["rejects"] if isinstance(row, Reject) and row.stage == stage]
            _commit(plan, stage, partition.number, mine[stage], rejects)
        for name, found in mine.items():
            rows[name] += found
    job = Job.of(plan, "run")
    refresh(plan)
    make = TaskMaker(plan, STAGES)
    for number in range(len(plan.groups)):
        task = make.of_shard(number)
        assert task is not None
        maker = make_here(job, SourceAudio(spec.source.uri), Limits(seconds=lambda _: 600.0), lambda code: None)
        plan.store.publish(write_group(plan.store, job, task, maker))
    refresh(plan)
    write_index(plan)
    publish(plan)
    return plan, rows


def make_spec(folder: Path, audio: bool = True) -> PipelineSpec:
    """The spec of the run; the sources are written where they are not there yet."""
    source = folder / "audio"
    if not source.exists():
        source.mkdir(parents=True)
        random = np.random.default_rng(7)
        names = ["a-long.wav", ODD_NAME, *(f"z-{number}.wav" for number in range(len(SECONDS) - 2))]
        for name, seconds in zip(names, SECONDS, strict=True):
            soundfile.write(source / name, random.uniform(-0.5, 0.5, int(seconds * SAMPLE_RATE)), SAMPLE_RATE)
        (source / BROKEN).write_bytes(b"not audio")
        make_centroids(folder / "centroids")
    raw = document(source, folder / "out", folder / "centroids", partitions={"minutes": 0.1})
    raw["source"] = {"uri": str(source), "name": SCRIPT}
    raw["stages"]["shards"] = {"minutes": 0.3, "passage_seconds": 60, "audio": audio}
    return parse_config(PipelineSpec, raw, origin="test")


def _rows(spec: PipelineSpec, uris: Sequence[str]) -> dict[str, list[Row]]:
    import hashlib

    rows: dict[str, list[Row]] = {name: [] for name in TABLES}
    for uri in uris:
        data = (Path(spec.source.uri) / uri).read_bytes()
        if uri == BROKEN:
            rows["rejects"].append(_reject(uri, "recordings", "decode_error", f"{uri}: it cannot be read", 0.0))
            continue
        digest = hashlib.sha256(data).hexdigest()
        length = soundfile.info(Path(spec.source.uri) / uri).frames
        recording = Recording(
            recording_id=recording_id(digest),
            uri=uri,
            source="test",
            bytes=len(data),
            sha256=digest,
            codec="WAV/PCM_16",
            sample_rate=SAMPLE_RATE,
            channels=1,
            num_samples=length,
            num_samples_16k=length,
        )
        rows["recordings"].append(recording)
        spans = LONG if uri == "a-long.wav" else [(0, length)]
        for number, (start, end) in enumerate(spans):
            _segment(rows, recording, start, end, rejected=number == 1)
    return rows


def _segment(rows: dict[str, list[Row]], recording: Recording, start: int, end: int, rejected: bool) -> None:
    """A segment with all its rows; a rejected one stops at its transcript, but has units."""
    name = segment_id(recording.recording_id, start, end)
    frames = (end - start) // HOP
    text = " ".join(GIVEN_WORDS)
    random = np.random.default_rng(start + end)
    rows["segments"].append(
        Segment(
            segment_id=name,
            recording_id=recording.recording_id,
            channel=-1,
            start=start,
            end=end,
            speech_prob=1.0,
            cut_reason="silence",
        )
    )
    rows["transcripts"].append(Transcript(segment_id=name, text=text, language="en", asr="asr-test"))
    values = np.repeat(random.integers(0, NUM_UNITS - 2, frames), 2)[:frames].tolist()
    rows["units"].append(Units(segment_id=name, num_frames=frames, units=values, tokenizer="test"))
    if rejected:
        rows["rejects"].append(_reject(name, "words", "align_failed", REJECT_DETAIL, (end - start) / SAMPLE_RATE))
        return
    edges = np.sort(random.choice(np.arange(10, end - start, 400), 2 * len(GIVEN_WORDS), replace=False)).tolist()
    times = list(zip(edges[::2], edges[1::2], strict=True))
    position = 0
    for index, (word, (first, last)) in enumerate(zip(GIVEN_WORDS, times, strict=True)):
        rows["words"].append(
            Word(
                segment_id=name,
                word_index=index,
                text=word,
                char_start=position,
                char_end=position + len(word),
                start=first,
                end=last,
                char_times=[],
                score=0.5,
                timing="star" if word == "日本語" else "aligned",
                aligner="test",
            )
        )
        position += len(word) + 1
    spoken = word_frames(times, frames, HOP)
    bounds, kind, word_index = aligned_patches(spoken, frames, "separate")
    rows["patches"].append(
        Patches(
            segment_id=name,
            bounds=bounds,
            kind=kind,
            word_index=word_index,
            word_frames=[edge for pair in spoken for edge in pair],
            policy="test",
        )
    )


def _reject(name: str, stage: str, code: str, detail: str, seconds: float) -> Reject:
    return Reject(
        id=name,
        stage=stage,
        code=code,
        detail=detail,
        retriable=False,
        attempts=1,
        seconds=seconds,  # type: ignore[arg-type]
    )


def _commit(plan: Plan, stage: str, number: int, rows: Sequence[Row], rejects: Sequence[Reject]) -> None:
    identity, partition = plan.stages[stage].fingerprint, plan.unit(stage, number)
    outputs = {stage: plan.store.write_table(TABLES[stage], rows, partition, identity)}
    outputs["rejects"] = plan.store.write_table(Reject, rejects, partition, identity)
    ids = {key_of(row) for row in rows}
    samples = sum(_samples(row) for row in {key_of(row): row for row in rows}.values())
    lost = round(sum(reject.seconds for reject in rejects) * SAMPLE_RATE)
    plan.store.publish(
        Commit(
            stage=stage,
            fingerprint=identity,
            partition=partition,
            inputs={},
            outputs=outputs,
            rows_in=len(ids) + len(rejects),
            rows_out=len(ids),
            rows_rejected=len(rejects),
            rejects_by_code={reject.code: 1 for reject in rejects},
            samples_in=samples + lost,
            samples_out=samples,
            samples_rejected=lost,
            seconds_busy=0.25,
        )
    )


def _samples(row: Row) -> int:
    if isinstance(row, Recording):
        return row.num_samples_16k
    start, end = key_of(row).split("-")[-2:]
    return int(end) - int(start)
