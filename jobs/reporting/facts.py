"""What the report says, gathered from commits, rejects and shards. Nothing of it is drawn here."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc
import soundfile

from jobs.reporting.strips import Strip, StripWord
from jobs.reporting.timeline import Timeline, gather_timeline
from jobs.runtime.accounting import StageTotals, totals
from jobs.runtime.plan import Plan
from jobs.runtime.stages import unit_tokenizer_of
from pipeline.containers.base import AudioError
from pipeline.source.audio import SourceAudio
from schemas.arrow import RowType
from schemas.audio import SAMPLE_RATE
from schemas.commit import SHARD_FOLDER, SHARDS
from schemas.config import ConfigError, in_short
from schemas.reading.shard_reader import ShardSample, samples_of, whole_index
from schemas.shards import TIMING_CODES, SampleMeta, ShardIndex, on_the_grid
from schemas.tables import Recording, Reject, Segment

NUM_STRIPS = 6
STRIP_SECONDS = 8.0
MAX_SHARDS = 32
"""Shards that are read: with more, the histograms are those of shards spread evenly over the set, and say so."""
MAX_REJECT_TABLES, MAX_REJECT_REQUESTS = 4096, 64
"""Tables of rejects that are read on this machine, and on object storage, where each is a request: with more, seconds are told by
those of tables spread evenly, and the page says so."""
EXAMPLES_PER_CODE = 5
TIMINGS = {code: name for name, code in TIMING_CODES.items()}


@dataclass(kw_only=True)
class RejectGroup:
    """The rejects of one stage with one code."""

    stage: str
    code: str
    count: int = 0
    seconds: float = 0.0
    examples: list[tuple[str, str]] = field(default_factory=list)
    """(id, sentence) of the first few."""


@dataclass(frozen=True, kw_only=True)
class Rejects:
    """The rejects of a run."""

    groups: list[RejectGroup]
    """Largest first."""
    seconds: float
    """Each rejected row once, though two branches may have rejected the same segment."""
    tables_read: int
    tables: int

    @property
    def are_estimated(self) -> bool:
        """Whether seconds are those of some tables, in proportion."""
        return self.tables_read < self.tables


@dataclass(kw_only=True)
class ShardStatistics:
    """Counted over the shards that were read."""

    shards_read: int
    shards: int
    usage: np.ndarray
    """int64 [num_units]: frames per unit."""
    lengths: dict[int, Counter[int]]
    """Patch kind -> length in frames -> patches."""


@dataclass(frozen=True, kw_only=True)
class SampleStrip:
    """A strip and where it comes from."""

    strip: Strip
    key: str
    uri: str
    text: str
    recording_seconds: float
    """Where in the recording the window begins."""
    playable: bool
    """Whether the audio is part of the shard, so that whoever has the shard may hear it."""


@dataclass(frozen=True, kw_only=True)
class ReportFacts:
    """All that the report tells."""

    plan: Plan
    index: ShardIndex
    stages: dict[str, StageTotals]
    audio_seconds: float
    licences: dict[str, tuple[int, float]]
    """Licence of the recordings -> files, seconds by their headers."""
    rejects: Rejects
    statistics: ShardStatistics
    strips: list[SampleStrip]
    timeline: Timeline


def gather(plan: Plan, index: ShardIndex) -> ReportFacts:
    """Read all that is reported.

    Raises:
        ConfigError: a shard that the index lists is missing.
    """
    statistics, strips = read_shards(plan, index)
    licences: defaultdict[str, list[float]] = defaultdict(list)
    table = plan.partitions.table
    for licence, seconds in zip(table.column("license").to_pylist(), plan.partitions.seconds.tolist(), strict=True):
        licences[licence or "not stated"].append(seconds)
    return ReportFacts(
        plan=plan,
        index=index,
        stages={name: totals(plan, name) for name in plan.stages},
        audio_seconds=plan.audio_hours() * 3600,
        licences={name: (len(seconds), sum(seconds)) for name, seconds in sorted(licences.items())},
        rejects=gather_rejects(plan),
        statistics=statistics,
        strips=strips,
        timeline=gather_timeline(plan),
    )


def gather_rejects(plan: Plan) -> Rejects:
    """The rejects by stage and code, and the audio seconds they cost together. How many there are the commits say."""
    rows = {stage: plan.rows_with_rejects(stage) for stage in plan.stages}
    tables = sum(map(len, rows.values()))
    most = MAX_REJECT_TABLES if plan.store.is_local else MAX_REJECT_REQUESTS
    chosen = np.asarray(spread(tables, most), np.int64)
    groups: dict[tuple[str, str], RejectGroup] = {}
    lost: dict[tuple[str, str], float] = {}
    first = 0
    for stage, its_rows in rows.items():
        mine = chosen[(first <= chosen) & (chosen < first + len(its_rows))] - first
        first += len(its_rows)
        for commit in plan.logs[stage].commits_in(its_rows[mine]):
            for row in plan.store.read_table(Reject, commit.outputs["rejects"]):
                group = groups.setdefault((stage, row.code), RejectGroup(stage=stage, code=row.code))
                group.count += 1
                group.seconds += row.seconds
                if len(group.examples) < EXAMPLES_PER_CODE:
                    group.examples.append((row.id, row.detail))
                lost[row.id, row.part] = row.seconds  # once, though two stages may refuse a segment
    seconds = sum(lost.values())
    if len(chosen) < tables:
        seconds *= _in_proportion(plan, groups)
    ordered = sorted(groups.values(), key=lambda group: (-group.seconds, group.stage, group.code))
    return Rejects(groups=ordered, seconds=seconds, tables_read=len(chosen), tables=tables)


def _in_proportion(plan: Plan, groups: dict[tuple[str, str], RejectGroup]) -> float:
    """Bring the groups of the tables that were read to the numbers that the commits state; by how much their seconds grow."""
    before, rows = (sum(getattr(group, name) for group in groups.values()) for name in ("seconds", "count"))
    for stage in plan.stages:
        for code, count in totals(plan, stage).rejects.items():
            group = groups.setdefault((stage, code), RejectGroup(stage=stage, code=code))
            group.seconds = count * (group.seconds / group.count if group.count else before / rows)
            group.count = count
    return sum(group.seconds for group in groups.values()) / before if before else 1.0


# shards -----------------------------------------------------------------------------------------------------------------


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the numbers [0, count), spread evenly over them."""
    wanted = min(count, wanted)
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]


def read_shards(plan: Plan, index: ShardIndex) -> tuple[ShardStatistics, list[SampleStrip]]:
    """One pass over the chosen shards: units and patches are counted in all samples, a few are kept to be drawn."""
    chosen = [index.shards[number] for number in spread(len(index.shards), MAX_SHARDS)]
    drawn = set(spread(sum(entry.samples for entry in chosen), NUM_STRIPS))
    statistics = ShardStatistics(
        shards_read=len(chosen),
        shards=len(index.shards),
        usage=np.zeros(index.num_units, np.int64),
        lengths=defaultdict(Counter),
    )
    source = _SourceAudioOf(plan)
    strips, number = [], 0
    for entry in chosen:
        try:
            file = plan.store.fs.open(plan.store.path(f"{SHARD_FOLDER}/{entry.path}"), "rb")
        except FileNotFoundError as error:
            raise ConfigError(
                f"{plan.spec.output}/shards/{entry.path} is missing though index.json lists it: "
                f"run jobs/tokenize_audio.py again"
            ) from error
        with file:
            for sample in samples_of(file):
                meta = SampleMeta.model_validate_json(sample.read("json"))
                units, bounds = sample.array("units.npy"), sample.array("patch.npy")
                statistics.usage += np.bincount(units, minlength=index.num_units)
                for kind, length in zip(meta.patch_kind, np.diff(bounds).tolist(), strict=True):
                    statistics.lengths[kind][length] += 1
                if number in drawn:
                    strips.append(make_strip(meta, sample, units, bounds, source.read))
                number += 1
    return statistics, strips


def choose_window(bounds: Sequence[int], limit: int) -> tuple[int, int]:
    """[start, end) of at most `limit` frames from the middle of the sample, cut at patch bounds where that is possible."""
    num_frames = bounds[-1]
    if num_frames <= limit:
        return 0, num_frames
    target = (num_frames - limit) // 2
    start = max(bound for bound in bounds if bound <= target)
    end = max(bound for bound in bounds if bound <= start + limit)
    return (start, end) if end > start else (target, target + limit)


def make_strip(
    meta: SampleMeta,
    sample: ShardSample,
    units: np.ndarray,
    bounds: np.ndarray,
    read_source: Callable[[SampleMeta], np.ndarray | None],
) -> SampleStrip:
    """The window of a sample that is drawn."""
    start, end = choose_window(bounds.tolist(), round(STRIP_SECONDS * SAMPLE_RATE / meta.hop))
    playable = "flac" in sample.members
    audio = on_the_grid(meta, _decode_flac(sample.read("flac"))) if playable else read_source(meta)
    words, said = [], []
    for (first, last, code), (char_start, char_end) in zip(sample.array("words.npy").tolist(), meta.words, strict=True):
        if first < end and last > start:
            text = meta.text[char_start:char_end]
            said.append((char_start, char_end))
            words.append(
                StripWord(text=text, start=max(first, start) - start, end=min(last, end) - start, timing=TIMINGS[code])
            )
    patches = [
        (max(first, start) - start, min(last, end) - start, kind)
        for first, last, kind in zip(bounds[:-1].tolist(), bounds[1:].tolist(), meta.patch_kind, strict=True)
        if first < end and last > start
    ]
    segment = next(span for span in meta.segments if span.frame_end > start)
    strip = Strip(
        hop=meta.hop,
        first_second=start * meta.hop / SAMPLE_RATE,
        audio=None if audio is None else audio[start * meta.hop : end * meta.hop],
        units=units[start:end],
        words=words,
        patches=patches,
        joins=[span.frame_start - start for span in meta.segments if start < span.frame_start < end],
    )
    return SampleStrip(
        strip=strip,
        key=meta.key,
        uri=meta.uri,
        text=meta.text[said[0][0] : said[-1][1]] if said else "",
        recording_seconds=(segment.start + (start - segment.frame_start) * meta.hop) / SAMPLE_RATE,
        playable=playable,
    )


def _decode_flac(data: bytes) -> np.ndarray:
    samples: np.ndarray
    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    return samples


class _SourceAudioOf:
    """The audio of samples that carry none, from where the recordings came from."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._audio = SourceAudio(plan.spec.source.uri)

    def read(self, meta: SampleMeta) -> np.ndarray | None:
        """float32 [num_frames * hop], or None where the source is gone or has changed."""
        try:
            recording, channel = self._recording(meta)
            samples = self._audio.read(recording, channel)
        except (OSError, ConfigError, AudioError, LookupError):
            return None
        return on_the_grid(meta, np.concatenate([samples[span.start : span.end] for span in meta.segments]))

    def _recording(self, meta: SampleMeta) -> tuple[Recording, int]:
        plan = self._plan
        place = pc.index(plan.partitions.table.column("uri"), meta.uri).as_py()
        if place < 0:
            raise LookupError(meta.uri)
        partition = int(np.searchsorted(plan.partitions.cuts, place, side="right")) - 1
        recordings = {row.recording_id: row for row in self._rows(Recording, partition)}
        segments = {row.segment_id: row for row in self._rows(Segment, partition)}
        return recordings[meta.recording_id], segments[meta.segments[0].segment_id].channel

    def _rows(self, row: type[RowType], partition: int) -> list[RowType]:
        commit = self._plan.commit(row.TABLE, partition)
        return self._plan.store.read_table(row, commit.outputs[row.TABLE])


def no_index(plan: Plan) -> ShardIndex:
    """The index of a run that has no shards yet."""
    cards = plan.stages[SHARDS].cards
    return ShardIndex(
        kind="speech",
        fingerprint=plan.stages[SHARDS].fingerprint,
        **unit_tokenizer_of(cards),
        cards={card.card_id: card for card in cards},
        shards=[],
        totals=dict.fromkeys(("samples", "frames", "words", "patches", "seconds", "bytes"), 0),
    )


def load_index(plan: Plan, data: bytes) -> ShardIndex:
    """The index, if it is the plan's.

    Raises:
        ConfigError: it was written with another spec, or cannot be read.
    """
    try:
        index = whole_index(data, lambda path: plan.store.read_bytes(f"{SHARD_FOLDER}/{path}"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{plan.spec.output}/shards/index.json cannot be read: {in_short(error)}") from error
    if index.fingerprint != plan.stages[SHARDS].fingerprint:
        raise ConfigError(
            f"{plan.spec.output}/shards/index.json was written with other settings than these: run "
            f"jobs/tokenize_audio.py with the same --config and overrides first"
        )
    return index
