"""Re-hash every file that a commit names and check every invariant of the tables and shards.

Exit codes: 0 all hold, 4 a line for each that does not.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.runtime.accounting import key_of
from jobs.runtime.cli import load_spec, spec_parser
from jobs.runtime.plan import Plan, make_plan
from jobs.runtime.stages import unit_tokenizer_of
from jobs.store.records import index_name
from jobs.store.store import CorruptFileError
from pipeline.patches import check_bounds
from pipeline.stage import rows_of
from schemas.arrow import Row
from schemas.commands.cli import command
from schemas.commit import KINDS, SHARD_FOLDER, SHARDS
from schemas.config import in_short
from schemas.errors import ExitCode
from schemas.reading.shard_reader import ShardSample, samples_of, whole_index
from schemas.shards import SampleMeta, ShardIndex
from schemas.tables import TABLES, Patches, Recording, Reject, Segment, Transcript, Units, Word

EXAMPLES = """  python jobs/verify_dataset.py --config configs/demo.yaml
  python jobs/verify_dataset.py --config configs/librilight.yaml output=s3://bucket/run --no-shards
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print every problem; `NOT_ACCEPTED` where there is one."""
    parser = spec_parser(__doc__, EXAMPLES)
    parser.add_argument("--no-shards", action="store_true", help="only the tables")
    given = parser.parse_args(arguments)
    plan = make_plan(load_spec(given), recorded=True)
    problems = list(verify_tables(plan))
    checked = f"{sum(int(plan.done[stage].sum()) for stage in plan.stages)} commits"
    if not given.no_shards:
        problems += verify_shards(plan)
        checked += f", {int(plan.done[SHARDS].sum())} shards"
    for problem in problems:
        print(f"- {problem}")
    print(f"{checked}: {f'{len(problems)} problems' if problems else 'everything holds'}")
    return ExitCode.NOT_ACCEPTED if problems else ExitCode.DONE


def verify_tables(plan: Plan) -> Iterator[str]:
    """Problems of the tables, one sentence each: hashes, counts, and what each table promises of the others."""
    yield from plan.damaged
    for stage in plan.stages:
        if missing := plan.pending(stage):
            yield f"{stage}: {len(missing)} partitions are not committed, such as {plan.unit(stage, missing[0])}"
    for partition in plan.partitions:
        tables: dict[str, Sequence[Row]] = {}
        rejected: set[str] = set()
        for stage in plan.stages:
            if not KINDS[stage].gathers and plan.done[stage][partition.number]:
                try:
                    tables[stage], rejects = read_stage(plan, stage, partition.number)
                except CorruptFileError as error:
                    yield str(error)
                    continue
                rejected |= {reject.id for reject in rejects}
        if len(tables) == len(plan.stages) - 1:
            yield from (
                f"{partition.name}: {problem}" for problem in check_partition(plan, partition, tables, rejected)
            )


def read_stage(plan: Plan, stage: str, partition: int) -> tuple[Sequence[Row], list[Reject]]:
    """A stage's rows and rejects of one partition, hashes checked."""
    commit = plan.commit(stage, partition)
    row: type[Row] = TABLES[stage]
    rejects = plan.store.read_table(Reject, commit.outputs["rejects"]) if "rejects" in commit.outputs else []
    if len({reject.id for reject in rejects if not reject.part}) != commit.rows_rejected:
        raise CorruptFileError(
            f"{stage}/{commit.partition}: {commit.rows_rejected} rejects promised, {len(rejects)} found",
            commit.outputs["rejects"].path if "rejects" in commit.outputs else "",
        )
    return plan.store.read_table(row, commit.outputs[stage]), rejects


def check_partition(plan: Plan, partition: Any, tables: dict[str, Sequence[Row]], rejected: set[str]) -> Iterator[str]:
    """What must hold between the tables of one partition."""
    files = {item.uri for item in partition.items}
    recordings, segments = rows_of(tables, Recording), rows_of(tables, Segment)
    transcripts = {row.segment_id: row for row in rows_of(tables, Transcript)}
    if lost := files - {row.uri for row in recordings} - rejected:
        yield f"files neither decoded nor rejected: {sorted(lost)[:3]}"
    if lost := {row.recording_id for row in recordings} - {row.recording_id for row in segments} - rejected:
        yield f"recordings neither segmented nor rejected: {sorted(lost)[:3]}"
    patched = {row.segment_id for row in rows_of(tables, Patches)}
    if lost := {row.segment_id for row in segments} - patched - rejected:
        yield f"segments neither patched nor rejected: {sorted(lost)[:3]}"
    if both := patched & rejected:
        yield f"segments both patched and rejected: {sorted(both)[:3]}"
    yield from check_segments(recordings, segments)
    yield from check_words(rows_of(tables, Word), segments, transcripts)
    hop = unit_tokenizer_of(plan.stages[Units.TABLE].cards)["hop"]
    lengths = {segment.segment_id: segment.end - segment.start for segment in segments}
    frames = {}
    for units in rows_of(tables, Units):
        frames[units.segment_id] = units.num_frames
        if not units.num_frames == len(units.units) == lengths[units.segment_id] // hop:
            yield f"{units.segment_id}: {len(units.units)} units for {lengths[units.segment_id]} samples at hop {hop}"
    for patches in rows_of(tables, Patches):
        try:
            check_bounds(patches.bounds, frames[patches.segment_id])
        except ValueError as error:
            yield f"{patches.segment_id}: {error}"


def check_segments(recordings: Sequence[Recording], segments: Sequence[Segment]) -> Iterator[str]:
    """Segments lie inside their recording, in order, and do not overlap."""
    ends = {row.recording_id: row.num_samples_16k for row in recordings}
    last: dict[tuple[str, int], int] = {}
    for segment in sorted(segments, key=lambda row: (row.recording_id, row.channel, row.start)):
        track = (segment.recording_id, segment.channel)
        if not last.get(track, 0) <= segment.start < segment.end <= ends[segment.recording_id]:
            yield f"{segment.segment_id} overlaps the one before it or leaves its recording"
        last[track] = segment.end


def check_words(
    words: Sequence[Word], segments: Sequence[Segment], transcripts: dict[str, Transcript]
) -> Iterator[str]:
    """Words are numbered from 0, point into their transcript, and lie in order inside their segment."""
    lengths = {segment.segment_id: segment.end - segment.start for segment in segments}
    last: dict[str, Word] = {}
    for word in sorted(words, key=lambda row: (row.segment_id, row.word_index)):
        before = last.get(word.segment_id)
        if word.word_index != (before.word_index + 1 if before else 0):
            yield f"{word.segment_id}: word {word.word_index} is out of sequence"
        if not (before.end if before else 0) <= word.start <= word.end <= lengths[word.segment_id]:
            yield f"{word.segment_id}: word {word.word_index} is out of order or leaves its segment"
        if transcripts[word.segment_id].text[word.char_start : word.char_end] != word.text:
            yield f"{word.segment_id}: word {word.word_index} {word.text!r} is not what its span in the transcript says"
        last[word.segment_id] = word


@dataclass
class Tally:
    """Names without their order, in constant memory: two hold the same, each as often, if their counts and sums agree."""

    count: int = 0
    total: int = 0

    def add(self, name: str) -> None:
        """Count a name in."""
        self.count += 1
        self.total = (self.total + int.from_bytes(hashlib.sha256(name.encode()).digest()[:16])) % (1 << 128)


def verify_shards(plan: Plan) -> list[str]:
    """Problems of the shards: hashes against the index, members against their own promises, segments exactly once."""
    name = f"{SHARD_FOLDER}/{index_name(plan.spec.source)}.json"
    if not plan.store.exists(name):
        return [f"{name} is missing: the shards are not complete"]
    try:
        index = whole_index(plan.store.read_bytes(name), lambda path: plan.store.read_bytes(f"{SHARD_FOLDER}/{path}"))
    except (OSError, ValueError) as error:
        return [f"{name} cannot be read: {in_short(error)}"]
    problems = []
    if index.fingerprint != plan.stages[SHARDS].fingerprint:
        problems.append(f"{name} belongs to another spec: run jobs/tokenize_audio.py again")
    seen, patched = Tally(), Tally()
    for entry in index.shards:
        try:
            data = plan.store.read_bytes(f"{SHARD_FOLDER}/{entry.path}")
        except FileNotFoundError:
            problems.append(f"{SHARD_FOLDER}/{entry.path} is missing")
            continue
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            problems.append(f"{SHARD_FOLDER}/{entry.path} is not the file that the index lists: its hash differs")
            continue
        for sample in samples_of(io.BytesIO(data)):
            meta = SampleMeta.model_validate(json.loads(sample.read("json")))
            for span in meta.segments:
                seen.add(span.segment_id)
            problems += [
                f"{SHARD_FOLDER}/{entry.path} {meta.key}: {problem}" for problem in check_sample(meta, sample, index)
            ]
    rejected = {
        reject.id
        for commit in plan.commits(SHARDS, with_rejects=True)
        for reject in plan.store.read_table(Reject, commit.outputs["rejects"])
    }
    for partition in plan.partitions:
        if plan.done[Patches.TABLE][partition.number]:
            for row in read_stage(plan, Patches.TABLE, partition.number)[0]:
                if key_of(row) not in rejected:
                    patched.add(key_of(row))
    if seen != patched:
        problems.append(
            f"{patched.count} segments have patches and were not rejected, and the shards hold {seen.count}, or others than these"
        )
    return problems


def check_sample(meta: SampleMeta, sample: ShardSample, index: ShardIndex) -> Iterator[str]:
    """What one sample promises."""
    units, words, bounds = (sample.array(name) for name in ("units.npy", "words.npy", "patch.npy"))
    if units.dtype != np.uint16 or len(units) != meta.num_frames:
        yield f"{len(units)} units of {units.dtype} for {meta.num_frames} frames"
    if len(units) and int(units.max()) >= index.num_units:
        yield f"unit {int(units.max())} where the vocabulary has {index.num_units}"
    if sum((span.end - span.start) // index.hop for span in meta.segments) != meta.num_frames:
        yield "the segments' lengths do not add up to its frames"
    try:
        check_bounds(bounds.tolist(), meta.num_frames)
    except ValueError as error:
        yield str(error)
    if len(bounds) != len(meta.patch_kind) + 1 or len(words) != len(meta.words):
        yield "patch kinds or word spans do not match the arrays"
    if len(words) and ((words[:, 0] > words[:, 1]).any() or (words[1:, 0] < words[:-1, 1]).any()):
        yield "words overlap or run backwards"


if __name__ == "__main__":
    sys.exit(main())
