"""Given utterances become segments at the times that were given, or rejects with their place; nothing else is changed."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora.base import CorpusRow, to_samples
from pipeline.corpora.read import _row_order, _segment
from pipeline.given_segments import GivenSegmentsStage, between_words
from pipeline.transcripts import TranscriptsStage
from schemas.given import Given, GivenSegment
from schemas.spec import GivenSegmentsSpec, TranscriptSpec
from schemas.tables import Recording, Reject, Segment, Transcript
from tests.pipeline.test_segments import Samples

SECOND = 16_000


def recording(samples: int, came: Given | None = None, text: str | None = None, channels: int = 1) -> Recording:
    return Recording(
        recording_id="0" * 16, uri="r.wav", source="test", bytes=0, sha256="0" * 64, codec="", sample_rate=16_000,
        channels=channels, num_samples=samples, num_samples_16k=samples, transcript=text,
        given=came.dump() if came is not None else None,
    )  # fmt: skip


def stage(row: Recording, **bounds: float) -> tuple[list[Segment], list[Reject]]:
    result = GivenSegmentsStage(GivenSegmentsSpec(**bounds)).run({"recordings": [row]}, Samples())
    return cast(list[Segment], list(result.rows)), list(result.rejects)


def texts(row: Recording, segments: list[Segment]) -> list[str]:
    result = TranscriptsStage(TranscriptSpec()).run({"recordings": [row], "segments": segments}, Samples())
    return [item.text for item in cast(list[Transcript], list(result.rows))]


utterances = st.lists(st.tuples(st.integers(0, 40_000), st.integers(-200, 9_000), st.integers(-1, 1)), max_size=12)


@given(utterances, st.integers(1000, 45_000))
def test_every_row_is_a_segment_at_its_own_times_or_a_reject_with_its_place(
    rows: list[tuple[int, int, int]], milliseconds: int
) -> None:
    """Overlapping, reversed, beyond the audio, on no channel: each row ends in exactly one place."""
    stated = [
        CorpusRow(
            audio="r.wav", place=f"segments:{number}", start=to_samples(f"{start / 1000:.3f}"),
            end=to_samples(f"{max(0, start + length) / 1000:.3f}"), channel=channel, text=f"text {number}",
        )
        for number, (start, length, channel) in enumerate(rows)
    ]  # fmt: skip
    came = [_segment(item) for item in sorted(stated, key=_row_order)]
    row = recording(milliseconds * 16, Given(segments=came), channels=2)
    segments, rejects = stage(row, min_seconds=0)
    parts = [reject.part for reject in rejects if reject.part]
    if not rows:
        assert [(row.start, row.end, row.cut_reason) for row in segments] == [(0, milliseconds * 16, "whole")]
        return
    assert bool(segments) != any(not reject.part for reject in rejects), "a recording without any segment is a reject"
    assert len(set(parts)) == len(parts)
    assert len(segments) + len(parts) == len(rows)
    by_text = {item.text: item for item in stated}
    for segment, text in zip(segments, texts(row, segments), strict=True):
        item = by_text[text]
        assert item.end is not None
        assert (segment.start, segment.channel) == (item.start, item.channel)
        assert segment.end in (item.end, milliseconds * 16)
        assert item.end - segment.end <= 640
        assert item.place not in parts
    lost = sum(reject.seconds for reject in rejects)
    assert lost <= milliseconds / 1000 + 0.01 * len(parts), "no more is lost than came in"
    for one, other in pairwise(segments):
        assert one.channel != other.channel or one.end <= other.start


def test_a_text_over_thirty_seconds_is_one_segment_up_to_the_limit_that_is_set() -> None:
    segments, rejects = stage(recording(45 * SECOND, text="a long text"))
    assert [(row.start, row.end) for row in segments] == [(0, 45 * SECOND)]
    assert texts(recording(45 * SECOND, text="a long text"), segments) == ["a long text"]
    assert not rejects
    segments, rejects = stage(recording(45 * SECOND, text="a long text"), max_seconds=40)
    assert not segments
    assert [(row.code, row.part) for row in rejects] == [("too_long", "")]
    assert "raise segments.max_seconds" in rejects[0].detail


def test_an_end_that_is_rounded_up_is_cut_at_the_end_of_the_recording() -> None:
    came = [GivenSegment(place="a:1", start=0, end=SECOND + 640, text="x")]
    segments, _ = stage(recording(SECOND, Given(segments=came)))
    assert [row.end for row in segments] == [SECOND]
    came = [GivenSegment(place="a:1", start=0, end=SECOND + 641, text="x")]
    segments, rejects = stage(recording(SECOND, Given(segments=came)))
    assert not segments
    assert [reject.part for reject in rejects] == ["a:1", ""]


def test_a_row_that_states_hours_loses_the_audio_that_is_there_and_in_no_segment() -> None:
    """One lying row among good ones must not make the share of rejected audio 100 % and end the run."""
    came = [
        GivenSegment(place="a:1", start=0, end=5 * SECOND, text="x"),
        GivenSegment(place="a:2", start=4 * SECOND, end=1000 * 3600 * SECOND, text="y"),
        GivenSegment(place="a:3", start=7 * SECOND, end=99 * SECOND, text="z"),
        GivenSegment(place="a:4", start=2 * SECOND, end=4 * SECOND, text="within the first"),
    ]
    segments, rejects = stage(recording(10 * SECOND, Given(segments=came)))
    assert [(row.start, row.end) for row in segments] == [(0, 5 * SECOND)]
    assert {reject.part: reject.seconds for reject in rejects} == {"a:2": 5.0, "a:3": 0.0, "a:4": 0.0}


@pytest.mark.parametrize("seconds", [20, 130])
@pytest.mark.parametrize(
    ("named", "channels", "cut_in"),
    [
        ([], "mix", {-1}), ([-1], "mix", {-1}), ([0], "mix", {-1}), ([0, 1], "mix", {0, 1}), ([1], "mix", {1}),
        ([-1], "each", {-1}), ([0], "each", {0}), ([0, 1], "each", {0, 1}),
    ],
)  # fmt: skip
def test_a_recording_of_two_channels_is_cut_in_those_that_its_words_name(
    seconds: int, named: list[int], channels: Literal["mix", "each"], cut_in: set[int]
) -> None:
    """The first alone is the mix, as in a CTM of one: a mix came back from its export as the first channel."""
    said = [(f"w{n}-{c}", n * SECOND, n * SECOND + 9_000, c) for c in named for n in range(seconds)]
    row = recording(seconds * SECOND, Given(words=said, words_place="x.ctm"), channels=2)
    if not named:
        row = row.with_updates(num_samples_16k=20 * SECOND, transcript="w")
    cut = GivenSegmentsStage(GivenSegmentsSpec(), channels=channels).run({"recordings": [row]}, Samples())
    segments = cast(list[Segment], list(cut.rows))
    assert not cut.rejects
    assert {segment.channel for segment in segments} == cut_in
    assert " ".join(texts(row, segments)).split() == [word[0] for word in said] or not named
    single = [segment for segment in segments if segment.cut_reason == "whole"]
    assert (len(single) == len(cut_in)) == (row.num_samples_16k <= 60 * SECOND)


def test_a_text_of_the_whole_is_of_the_mix() -> None:
    """What is said on which channel only the words know, and a text that came beside them cannot be divided."""
    said = [("one", 0, 9_000, 0), ("two", 10_000, 19_000, 1)]
    row = recording(2 * SECOND, Given(words=said, words_place="x.ctm"), "One, two.", channels=2)
    segments, _ = stage(row)
    assert [segment.channel for segment in segments] == [-1]
    assert texts(row, segments) == ["One, two."]


def test_a_recording_that_is_too_short_on_each_channel_is_one_reject() -> None:
    said = [("one", 0, 500, 0), ("two", 600, 900, 1)]
    segments, rejects = stage(recording(1_000, Given(words=said, words_place="x.ctm"), channels=2))
    assert not segments
    assert [(reject.code, reject.part) for reject in rejects] == [("too_short", "")]


pauses_and_words = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 900)), min_size=1, max_size=30)


def plainly_between_words(spoken: list[tuple[str, int, int, int]], until: int, most: int) -> list[tuple[int, int]]:
    """The reference: for each stretch all pauses are looked through, so that time grows with the square of the length."""
    pauses = [((a[2] + b[1]) // 2, b[1] - a[2]) for a, b in pairwise(spoken) if a[2] <= b[1] < until]
    cuts = [0]
    while until - cuts[-1] > most:
        later = [pause for pause in pauses if pause[0] > cuts[-1]]
        fits = [pause for pause in later if pause[0] - cuts[-1] <= most]
        late = [pause for pause in fits if pause[0] - cuts[-1] > most // 2]
        if not (among := late or fits or later[:1]):
            break
        cuts.append(max(among, key=lambda pause: (pause[1], pause[0]))[0])
    return list(pairwise([*cuts, until]))


@given(pauses_and_words, st.integers(1000, 20_000))
def test_a_long_recording_is_cut_between_its_words(lengths: list[tuple[int, int]], most: int) -> None:
    """The stretches tile the recording, break no word, and are short enough wherever a pause allows."""
    at, spoken = 0, []
    for gap, length in lengths:
        spoken.append(("w", at + gap, at + gap + length, -1))
        at += gap + length
    stretches = between_words(spoken, at + 100, most)
    assert stretches == plainly_between_words(spoken, at + 100, most)
    assert [start for start, _ in stretches] == [0, *(end for _, end in stretches[:-1])]
    assert stretches[-1][1] == at + 100
    for _, start, end, _ in spoken:
        assert any(low <= start and end <= high for low, high in stretches)
    for low, high in stretches:
        inside = [word for word in spoken if low <= word[1] and word[2] <= high]
        assert high - low <= most or len(inside) <= 1 or high == at + 100
