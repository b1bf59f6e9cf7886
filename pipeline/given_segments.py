"""Stage `segments`, backend `given`: the utterances that came with the recordings, at the very times that their corpus states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.source.base import AudioReader
from pipeline.stage import StageResult, refuse, rows_of
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.cards import Card
from schemas.given import Given, GivenProblem, GivenSegment, load_given
from schemas.spec import GivenSegmentsSpec
from schemas.tables import Recording, Reject, RejectCode, Segment, segment_id

TOLERANCE = 640
"""Samples (40 ms) by which an utterance may end after its recording: corpora round to hundredths. It is cut there."""


class GivenSegmentsStage:
    """Given utterances as segments; a recording that came without any is one segment. No audio is read.

    Rejects, each with the row's place: bad_row, too_short, too_long. A recording none of whose utterances can be used is a
    reject as a whole.
    """

    name = "segments"
    version = 1
    inputs: tuple[str, ...] = ("recordings",)

    def __init__(self, spec: GivenSegmentsSpec) -> None:
        self._spec = spec

    def cards(self) -> list[Card]:
        """Not a model, but where segments come from."""
        return [Card(kind="vad", name="given", facts={"source": "corpus"})]

    def open(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to release."""

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """Segments of each recording, ordered and disjoint within a channel."""
        rows: list[Segment] = []
        rejects: list[Reject] = []
        for recording in rows_of(tables, "recordings", Recording):
            found, refused = self._recording(recording)
            rows += found
            rejects += refused
        return StageResult(rows=rows, rejects=rejects)

    def _recording(self, recording: Recording) -> tuple[list[Segment], list[Reject]]:
        given = load_given(recording.given)
        whole = not given.segments and not given.problems
        if whole:
            given = Given(segments=[GivenSegment(place=recording.uri, start=0, end=None)])
        rows: list[Segment] = []
        parts: list[Reject] = []
        last: dict[int, tuple[Segment, str]] = {}
        for utterance in given.segments:
            outcome = self._segment(recording, utterance, whole)
            if isinstance(outcome, Segment) and outcome.channel in last:
                outcome = _after(last[outcome.channel], outcome, utterance)
            if isinstance(outcome, Segment):
                rows.append(outcome)
                last[outcome.channel] = outcome, utterance.place
            else:
                parts.append(_part(recording, *outcome))
        if rows:
            return rows, parts
        if whole:
            return [], [part.model_copy(update={"part": ""}) for part in parts]
        return [], [*(part.model_copy(update={"seconds": 0.0}) for part in parts), _none_left(recording, given)]

    def _segment(
        self, recording: Recording, utterance: GivenSegment, whole: bool
    ) -> Segment | tuple[RejectCode, GivenProblem]:
        length = recording.num_samples_16k
        start, end = utterance.start, length if utterance.end is None else utterance.end
        if length < end <= length + TOLERANCE:
            end = length
        seconds = max(0.0, (end - start) / SAMPLE_RATE)
        channel = -1 if recording.channels == 1 and utterance.channel <= 0 else utterance.channel

        def refuse(code: RejectCode, detail: str) -> tuple[RejectCode, GivenProblem]:
            return code, GivenProblem(place=utterance.place, detail=detail, seconds=seconds)

        if end <= start and utterance.end is not None:
            return refuse("bad_row", f"it begins at {start / SAMPLE_RATE:.3f} s and ends at {end / SAMPLE_RATE:.3f} s")
        if end > length or start >= length:
            until = f"{end / SAMPLE_RATE:.3f}" if end > length else f"{start / SAMPLE_RATE:.3f}"
            return refuse(
                "bad_row", f"it reaches to {until} s and {recording.uri} ends at {length / SAMPLE_RATE:.3f} s"
            )
        if channel >= recording.channels:
            return refuse("bad_row", f"it is on channel {channel}, and {recording.uri} has {recording.channels}")
        if seconds < self._spec.min_seconds:
            return refuse(
                "too_short", f"it lasts {seconds:.3f} s and segments.min_seconds is {self._spec.min_seconds:g}"
            )
        if seconds > self._spec.max_seconds:
            remedy = "cut it, raise segments.max_seconds, or let segments.backend be silero"
            bound = f"segments.max_seconds is {self._spec.max_seconds:g}"
            return refuse("too_long", f"it lasts {seconds:.3f} s and {bound}: {remedy}")
        return Segment(
            segment_id=segment_id(recording.recording_id, start, end, channel),
            recording_id=recording.recording_id,
            channel=channel,
            start=start,
            end=end,
            speech_prob=1.0,
            cut_reason="whole" if whole else "given",
        )


def _after(
    last: tuple[Segment, str], segment: Segment, utterance: GivenSegment
) -> Segment | tuple[RejectCode, GivenProblem]:
    """The segment, unless it begins within the one before it: audio is in one segment of a channel at most."""
    before, place = last
    if segment.start >= before.end:
        return segment
    begin, until = segment.start / SAMPLE_RATE, before.end / SAMPLE_RATE
    seconds = (segment.end - segment.start) / SAMPLE_RATE
    detail = f"it begins at {begin:.3f} s, within the utterance of {place}, which lasts until {until:.3f} s"
    return "bad_row", GivenProblem(place=utterance.place, detail=detail, seconds=seconds)


def _part(recording: Recording, code: RejectCode, problem: GivenProblem) -> Reject:
    detail = f"{problem.place}: {problem.detail}"
    return refuse(recording, GivenSegmentsStage.name, code, detail, part=problem.place, seconds=problem.seconds)


def _none_left(recording: Recording, given: Given) -> Reject:
    stated = len(given.segments) + len(given.problems)
    detail = f"{recording.uri}: none of the {stated} rows that speak of it can be used"
    return refuse(recording, GivenSegmentsStage.name, "bad_row", detail)
