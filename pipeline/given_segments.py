"""Stage `segments`, backend `given`: the utterances that came with the recordings, at the very times that their corpus states."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import itemgetter

import numpy as np

from pipeline.source.base import AudioReader
from pipeline.stage import StageResult, WithoutModel, refuse, rows_of
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.cards import NO_MODEL, Card
from schemas.given import Given, GivenProblem, GivenSegment, GivenWord, channel_of, load_given
from schemas.spec import GivenSegmentsSpec
from schemas.tables import Recording, Reject, RejectCode, Segment, segment_id

TOLERANCE = 640
"""Samples (40 ms) by which an utterance may end after its recording: corpora round to hundredths. It is cut there."""
TICK = 160
"""Samples (10 ms): how finely is counted which audio rejects have lost."""


class GivenSegmentsStage(WithoutModel):
    """Given utterances as segments; a recording that came without any is one segment, or one of each channel that its words
    name. No audio is read.

    Rejects, each with the row's place: bad_row, too_short, too_long. A recording none of whose utterances can be used is a
    reject as a whole.
    """

    name = Segment.TABLE
    version = 1
    inputs: tuple[str, ...] = (Recording.TABLE,)

    def __init__(self, spec: GivenSegmentsSpec, channels: str = "mix") -> None:
        """`channels` is recordings.channels of the spec."""
        self._spec = spec
        self._each = channels == "each"

    def cards(self) -> list[Card]:
        """Not a model, but where segments come from."""
        facts = {"source": "corpus"} | ({"channels": "each"} if self._each else {})
        return [Card(kind="vad", name="given", facts=facts, notes={"license": NO_MODEL})]

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """Segments of each recording, ordered and disjoint within a channel."""
        rows: list[Segment] = []
        rejects: list[Reject] = []
        for recording in rows_of(tables, Recording):
            found, refused = self._recording(recording)
            rows += found
            rejects += refused
        return StageResult(rows=rows, rejects=rejects)

    def _recording(self, recording: Recording) -> tuple[list[Segment], list[Reject]]:
        given = load_given(recording.given)
        whole = not given.segments and (given.whole or not given.problems)
        if whole:
            channels = self._channels(given)
            if given.words and recording.num_samples_16k > self._spec.max_seconds * SAMPLE_RATE:
                given, whole = Given(segments=self._from_words(recording, given, channels)), False
            else:
                single = [-1] if recording.transcript or -1 in channels or recording.channels == 1 else channels
                given = Given(segments=[_from_end_to_end(recording, channel) for channel in single])
        rows: list[Segment] = []
        refused: list[tuple[GivenSegment, Reject]] = []
        last: dict[int, tuple[Segment, str]] = {}
        for utterance in given.segments:
            outcome = self._segment(recording, utterance, whole)
            if isinstance(outcome, Segment) and outcome.channel in last:
                outcome = _after(last[outcome.channel], outcome, utterance)
            if isinstance(outcome, Segment):
                rows.append(outcome)
                last[outcome.channel] = outcome, utterance.place
            else:
                refused.append((utterance, _part(recording, *outcome)))
        parts = _counted_once(recording.num_samples_16k, rows, refused)
        if rows:
            return rows, parts
        if whole:
            return [], [part.model_copy(update={"part": ""}) for part in parts[:1]]
        return [], [*(part.model_copy(update={"seconds": 0.0}) for part in parts), _none_left(recording, given)]

    def _channels(self, given: Given) -> list[int]:
        """In which channels a recording without utterances is cut: those that its words name. The first alone is the mix unless
        each channel is to be cut by itself: a CTM names it of whatever it speaks."""
        named = sorted({word[3] for word in given.words})
        return [-1] if not named or (named == [0] and not self._each) else named

    def _from_words(self, recording: Recording, given: Given, channels: Sequence[int]) -> list[GivenSegment]:
        """A long recording whose words have times is cut between words."""
        found: list[GivenSegment] = []
        for channel in channels:
            words = [word for word in given.words if word[3] == channel or len(channels) == 1]
            for start, end in between_words(
                words, recording.num_samples_16k, int(self._spec.max_seconds * SAMPLE_RATE)
            ):
                found.append(GivenSegment(place=given.words_place, start=start, end=end, channel=channel))
        return found

    def _segment(
        self, recording: Recording, utterance: GivenSegment, whole: bool
    ) -> Segment | tuple[RejectCode, GivenProblem]:
        length = recording.num_samples_16k
        start, end = utterance.start, length if utterance.end is None else utterance.end
        if length < end <= length + TOLERANCE:
            end = length
        seconds = max(0.0, (end - start) / SAMPLE_RATE)
        channel = channel_of(utterance.channel, recording.channels)

        def refuse(code: RejectCode, detail: str) -> tuple[RejectCode, GivenProblem]:
            return code, GivenProblem(place=utterance.place, detail=detail)

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


def _from_end_to_end(recording: Recording, channel: int) -> GivenSegment:
    return GivenSegment(place=recording.uri, start=0, end=None, channel=channel)


def _counted_once(
    num_samples: int, rows: Sequence[Segment], refused: Sequence[tuple[GivenSegment, Reject]]
) -> list[Reject]:
    """The rejects, each with the seconds of audio that are lost with it: those that its row states, the recording has, and no
    segment and no reject before it holds. A row may state hours, which must not outweigh what came in.
    """
    if not refused:
        return []
    is_counted = np.zeros(-(-num_samples // TICK), dtype=bool)
    for row in rows:
        is_counted[row.start // TICK : -(-row.end // TICK)] = True
    rejects = []
    for utterance, reject in refused:
        end = num_samples if utterance.end is None else min(utterance.end, num_samples)
        stated = is_counted[utterance.start // TICK : -(-end // TICK)]
        lost = int(np.count_nonzero(~stated)) * TICK
        stated[:] = True
        seconds = max(0, min(lost, end - utterance.start)) / SAMPLE_RATE
        rejects.append(reject.model_copy(update={"seconds": seconds}))
    return rejects


def between_words(words: Sequence[GivenWord], num_samples: int, most: int) -> list[tuple[int, int]]:
    """Stretches of at most `most` samples that tile [0, num_samples) and break no word: cut in the middle of the longest pause in
    the second half of what fits, or of any that fits. A stretch that cannot be cut is longer.
    """
    pauses = sorted(
        ((one[2] + other[1]) // 2, other[1] - one[2])
        for one, other in pairwise(words)
        if one[2] <= other[1] < num_samples
    )
    stretches: list[tuple[int, int]] = []
    start = 0
    while num_samples - start > most:
        later, late, beyond = (bisect_right(pauses, start + far, key=itemgetter(0)) for far in (0, most // 2, most))
        candidates = pauses[late:beyond] or pauses[later:beyond] or pauses[later : later + 1]
        if not candidates:
            break
        cut = max(candidates, key=lambda pause: (pause[1], pause[0]))[0]
        stretches.append((start, cut))
        start = cut
    return [*stretches, (start, num_samples)]


def _after(
    last: tuple[Segment, str], segment: Segment, utterance: GivenSegment
) -> Segment | tuple[RejectCode, GivenProblem]:
    """The segment, unless it begins within the one before it: audio is in one segment of a channel at most."""
    before, place = last
    if segment.start >= before.end:
        return segment
    begin, until = segment.start / SAMPLE_RATE, before.end / SAMPLE_RATE
    detail = f"it begins at {begin:.3f} s, within the utterance of {place}, which lasts until {until:.3f} s"
    return "bad_row", GivenProblem(place=utterance.place, detail=detail)


def _part(recording: Recording, code: RejectCode, problem: GivenProblem) -> Reject:
    detail = f"{problem.place}: {problem.detail}"
    return refuse(recording, GivenSegmentsStage.name, code, detail, part=problem.place, seconds=0.0)


def _none_left(recording: Recording, given: Given) -> Reject:
    stated = len(given.segments) + len(given.problems)
    detail = f"{recording.uri}: none of the {stated} rows that speak of it can be used"
    return refuse(recording, GivenSegmentsStage.name, "bad_row", detail)
