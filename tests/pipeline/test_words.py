from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.align.base import AlignError, Alignment, WordTiming
from pipeline.align.place import MIN_WORD, place_words
from pipeline.align.soundswallower import SoundSwallowerAligner
from pipeline.text.tokens import Token, tokenise
from pipeline.words import WordsStage
from schemas.cards import Card
from schemas.spec import SoundSwallowerSpec
from schemas.tables import Segment, Transcript, Word
from tests.pipeline.conftest import DemoTables
from tests.pipeline.source.bad_audio import speech


@st.composite
def partial_timings(draw: st.DrawFn) -> tuple[list[WordTiming | None], int]:
    """Ordered, disjoint timings with holes, inside a segment."""
    edges, at = [], 0
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 5000)), min_size=1, max_size=12)):
        edges.append((at + gap, at + gap + length))
        at += gap + length
    keep = draw(st.lists(st.booleans(), min_size=len(edges), max_size=len(edges)))
    timings = [
        WordTiming(start=start, end=end, score=0.5, timing="aligned") if kept else None
        for (start, end), kept in zip(edges, keep, strict=True)
    ]
    return timings, at + draw(st.integers(0, 3000))


@given(partial_timings())
def test_placed_words_are_ordered_disjoint_and_inside(case: tuple[list[WordTiming | None], int]) -> None:
    found, num_samples = case
    assume(any(timing is not None for timing in found))
    try:
        placed = place_words(found, [4] * len(found), num_samples)
    except AlignError:
        # Only where the audio is far too short for its words may this be given up.
        assert num_samples < MIN_WORD * len(found) * 4
        return
    assert len(placed) == len(found)
    assert placed[0].start >= 0
    assert placed[-1].end <= num_samples
    assert all(timing.start < timing.end for timing in placed)
    assert all(before.end <= after.start for before, after in pairwise(placed))
    for before, after in zip(found, placed, strict=True):
        if before is None:
            assert after.timing == "interpolated"
            assert after.score == 0.0
        else:
            assert after == before or (
                after.timing == "interpolated" and before.start <= after.start < after.end <= before.end
            )


def test_interpolated_words_share_the_gap_by_their_lengths() -> None:
    first = WordTiming(start=0, end=1000, score=1.0, timing="aligned")
    last = WordTiming(start=9000, end=10_000, score=1.0, timing="aligned")
    placed = place_words([first, None, None, last], [1, 1, 3, 1], 10_000)
    assert placed[0] == first
    assert placed[3] == last
    assert (placed[1].start, placed[2].end) == (1000, 9000)
    assert placed[1].end == placed[2].start == pytest.approx(3000, abs=2)


def test_a_word_without_a_gap_takes_half_of_its_neighbours_and_flags_them() -> None:
    first = WordTiming(start=0, end=16_000, score=1.0, timing="aligned")
    last = WordTiming(start=16_000, end=32_000, score=1.0, timing="aligned")
    placed = place_words([first, None, last], [1, 1, 1], 32_000)
    assert [(timing.start, timing.end) for timing in placed] == [(0, 8000), (8000, 24_000), (24_000, 32_000)]
    assert {timing.timing for timing in placed} == {"interpolated"}


@pytest.mark.parametrize(
    "edges", [[(0, 200), (100, 300)], [(200, 300), (0, 100)], [(0, 100), (100, 401)], [(5, 5), (6, 7)]]
)
def test_timings_that_overlap_or_leave_the_segment_are_an_error(edges: list[tuple[int, int]]) -> None:
    found = [WordTiming(start=start, end=end, score=1.0, timing="aligned") for start, end in edges]
    with pytest.raises(AlignError):
        place_words(found, [1, 1], 400)


def test_words_end_inside_the_audio_however_it_is_cut(aligner: SoundSwallowerAligner) -> None:
    """Frames are rounded; a word that is cut off by the end of its segment must still end inside it."""
    voice = speech("sense_and_sensibility_0930.flac")
    for length in range(30_000, 30_200, 13):
        timings = aligner.align(voice[:length], tokenise("he might even have been made"), "en").timings
        assert all(timing is not None and timing.end <= length for timing in timings)


def test_nothing_heard_is_an_error() -> None:
    with pytest.raises(AlignError, match="not one word"):
        place_words([None, None], [1, 1], 16_000)


@pytest.fixture(scope="module")
def aligner() -> Iterator[SoundSwallowerAligner]:
    opened = SoundSwallowerAligner()
    opened.open()
    yield opened
    opened.close()


def transcript(segment: Segment, text: str, language: str = "en") -> Transcript:
    return Transcript(segment_id=segment.segment_id, text=text, language=language, asr="test")


def run(stage: WordsStage, demo: DemoTables, transcripts: Sequence[Transcript]) -> tuple[list[Word], dict[str, str]]:
    tables = {"transcripts": transcripts, "segments": demo.segments, "recordings": demo.recordings}
    result = stage.run(tables, demo.audio)
    rows = [row for row in result.rows if isinstance(row, Word)]
    assert {row.segment_id for row in rows} | {reject.id for reject in result.rejects} == {
        row.segment_id for row in transcripts
    }
    return rows, {reject.id: f"{reject.code}: {reject.detail}" for reject in result.rejects}


@pytest.fixture(scope="module")
def references(demo: DemoTables) -> list[Transcript]:
    """The human transcripts of the recordings that are one segment."""
    texts = {row.recording_id: row.transcript for row in demo.recordings}
    return [transcript(row, texts[row.recording_id] or "") for row in demo.segments if row.cut_reason == "whole"]


@pytest.fixture(scope="module")
def stage() -> Iterator[WordsStage]:
    opened = WordsStage(SoundSwallowerSpec())
    opened.open()
    yield opened
    opened.close()


def test_words_of_real_speech_are_placed_in_its_segments(
    demo: DemoTables, stage: WordsStage, references: list[Transcript]
) -> None:
    rows, rejects = run(stage, demo, references)
    assert not rejects
    segments = {row.segment_id: row for row in demo.segments}
    for reference in references:
        words = [row for row in rows if row.segment_id == reference.segment_id]
        assert [row.word_index for row in words] == list(range(len(reference.text.split())))
        length = segments[reference.segment_id].end - segments[reference.segment_id].start
        assert words[0].start >= 0
        assert words[-1].end <= length
        assert all(before.end <= after.start for before, after in pairwise(words))
        for word in words:
            assert word.start < word.end
            assert word.text == reference.text[word.char_start : word.char_end]
            assert 0 <= word.score <= 1
            assert word.aligner == stage.cards()[0].card_id
    share = sum(row.timing == "aligned" for row in rows) / len(rows)
    assert share > 0.95


def test_a_pause_is_between_the_words_around_it(aligner: SoundSwallowerAligner) -> None:
    """Ground truth without annotators: two recordings with two seconds of silence between them."""
    first, second = speech("sense_and_sensibility_0880.flac"), speech("sense_and_sensibility_0930.flac")
    audio = np.concatenate([first, np.zeros(32_000, dtype=np.float32), second])
    before, after = "he was not an ill disposed young man", "he might even have been made amiable himself"
    timings = aligner.align(audio, tokenise(f"{before} {after}"), "en").timings
    num_before = len(before.split())
    tolerance = 1600  # 100 ms
    assert all(timing is not None for timing in timings)
    last, following = timings[num_before - 1], timings[num_before]
    assert last is not None
    assert following is not None
    assert last.end <= len(first) + tolerance
    assert following.start >= len(first) + 32_000 - tolerance


def test_a_segment_is_aligned_the_same_after_any_other(
    demo: DemoTables, stage: WordsStage, references: list[Transcript]
) -> None:
    together, _ = run(stage, demo, references)
    fresh = WordsStage(SoundSwallowerSpec())
    fresh.open()
    alone = [row for reference in reversed(references) for row in run(fresh, demo, [reference])[0]]
    assert sorted(alone, key=lambda row: (row.segment_id, row.word_index)) == together


def test_an_invented_word_is_placed_and_flagged(aligner: SoundSwallowerAligner) -> None:
    audio = speech("sense_and_sensibility_0880.flac")
    known = aligner.align(audio, tokenise("he was not an ill disposed young man"), "en").timings
    invented = aligner.align(audio, tokenise("he was not an ill dispozd yunng man"), "en").timings
    flags = [timing.timing for timing in invented if timing is not None]
    assert flags == ["aligned"] * 5 + ["star"] * 2 + ["aligned"]
    for certain, guessed in zip(known, invented, strict=True):
        assert certain is not None
        assert guessed is not None
        assert abs(certain.start - guessed.start) < 3200


def test_a_word_in_another_script_is_interpolated_and_counts_against_coverage(demo: DemoTables) -> None:
    segment = demo.segment_of("sense_and_sensibility_0880.flac")
    mixed = transcript(segment, "he was not \u4f60 \u597d young man")
    lenient = WordsStage(SoundSwallowerSpec(min_coverage=0.3, max_uncovered=1))
    lenient.open()
    rows, _ = run(lenient, demo, [mixed])
    assert [row.timing for row in rows if row.text in "\u4f60\u597d"] == ["interpolated", "interpolated"]
    strict = WordsStage(SoundSwallowerSpec(min_coverage=0.9))
    strict.open()
    rows, rejects = run(strict, demo, [mixed])
    assert not rows
    assert "align_coverage" in rejects[segment.segment_id]


@pytest.mark.parametrize(
    "text,language,detail",
    [
        ("hallo welt", "de", "English model only"),
        ("\u266a ...", "en", "holds no word"),
        ("\u4f60\u597d", "en", "not one word"),
        ("word " * 200, "en", "do not fit"),
    ],
)
def test_what_cannot_be_aligned_is_rejected_with_a_sentence(
    demo: DemoTables, stage: WordsStage, text: str, language: str, detail: str
) -> None:
    segment = demo.segment_of("sense_and_sensibility_0880.flac")
    rows, rejects = run(stage, demo, [transcript(segment, text.strip(), language)])
    assert not rows
    assert rejects[segment.segment_id].startswith("align_failed")
    assert detail in rejects[segment.segment_id]
    seconds = segment.start / 16_000
    assert rejects[segment.segment_id].endswith(f"(sense_and_sensibility_0880.flac, from {seconds:.2f} s)")


class Fake:
    """An aligner that gives every token a tenth of a second, flagged as told."""

    def __init__(self, timing: Literal["aligned", "star"]) -> None:
        self._timing = timing

    def card(self) -> Card:
        return Card(kind="aligner", name="fake", facts={})

    def open(self) -> None: ...

    def close(self) -> None: ...

    def align(self, audio: np.ndarray, tokens: Sequence[Token], language: str) -> Alignment:
        timings = [
            WordTiming(start=1600 * index, end=1600 * (index + 1), score=1.0, timing=self._timing)
            for index in range(len(tokens))
        ]
        return Alignment(timings=timings)


def test_any_aligner_fits_and_only_certain_words_are_coverage(demo: DemoTables) -> None:
    segment = demo.segment_of("sense_and_sensibility_0870.flac")
    text = transcript(segment, "one two three")
    rows, _ = run(WordsStage(SoundSwallowerSpec(max_uncovered=1), Fake("aligned")), demo, [text])
    assert [(row.start, row.end, row.text) for row in rows] == [
        (0, 1600, "one"),
        (1600, 3200, "two"),
        (3200, 4800, "three"),
    ]
    _, rejects = run(WordsStage(SoundSwallowerSpec(max_uncovered=1), Fake("star")), demo, [text])
    assert "align_coverage: 0% of 3 words" in rejects[segment.segment_id]


class FakeWitness(Fake):
    """Asked, it refuses the text that begins with "two"."""

    def ask(self, segments: Sequence[tuple[Sequence[Token], Alignment]]) -> list[Alignment | AlignError]:
        return [AlignError("not said") if tokens[0].text == "two" else alignment for tokens, alignment in segments]


def test_what_a_second_witness_refuses_is_a_reject_and_its_neighbours_are_words(demo: DemoTables) -> None:
    texts = [
        transcript(segment, f"{word} three")
        for segment, word in zip(demo.segments[:3], ("one", "two", "four"), strict=True)
    ]
    rows, rejects = run(WordsStage(SoundSwallowerSpec(max_uncovered=1), FakeWitness("aligned")), demo, texts)
    assert [row.text for row in rows] == ["one", "three", "four", "three"]
    assert list(rejects) == [texts[1].segment_id]
    assert rejects[texts[1].segment_id].startswith("align_failed: not said")
