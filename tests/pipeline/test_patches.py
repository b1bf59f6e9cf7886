"""Patch bounds tile the frames exactly, every word keeps its frames, and silence goes where the policy says."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.patches import aligned_patches, check_bounds, word_frames
from schemas.audio import PATCH_FILLER, PATCH_SILENCE, PATCH_WORD

HOP = 640


@st.composite
def timed_words(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int]:
    """Ordered, disjoint word times inside a segment, and the segment's frames."""
    num_samples = draw(st.integers(HOP, 40 * HOP))
    count = draw(st.integers(0, 30))
    edges = sorted(draw(st.lists(st.integers(0, num_samples), min_size=2 * count, max_size=2 * count)))
    return list(zip(edges[::2], edges[1::2], strict=True)), num_samples // HOP


@given(timed_words())
def test_words_are_ordered_disjoint_inside_and_not_empty(case: tuple[list[tuple[int, int]], int]) -> None:
    times, num_frames = case
    frames = word_frames(times, num_frames, HOP)
    assert len(frames) == len(times)
    assert all(0 <= start <= end <= num_frames for start, end in frames)
    assert all(before[1] <= after[0] for before, after in pairwise(frames))
    if len(times) <= num_frames:
        assert all(end > start for start, end in frames), "a word lost its frames although there were enough"


@given(timed_words(), st.sampled_from(["separate", "merged"]))
def test_patches_tile_the_frames(case: tuple[list[tuple[int, int]], int], silence: str) -> None:
    times, num_frames = case
    frames = word_frames(times, num_frames, HOP)
    bounds, kind, index = aligned_patches(frames, num_frames, silence)
    check_bounds(bounds, num_frames)
    assert len(kind) == len(index) == len(bounds) - 1
    assert [i for i in index if i >= 0] == [i for i, (start, end) in enumerate(frames) if end > start]
    for start, end, what, word in zip(bounds[:-1], bounds[1:], kind, index, strict=True):
        if what == PATCH_WORD:
            assert start <= frames[word][0] < frames[word][1] <= end
            assert silence == "merged" or (start, end) == frames[word]
        else:
            assert word == -1
            assert not any(a < end and start < b for a, b in frames if b > a), "silence overlaps a word"
    if silence == "merged" and any(end > start for start, end in frames):
        assert PATCH_SILENCE not in kind


def test_times_round_to_the_nearest_frame() -> None:
    assert word_frames([(0, 1000), (1000, 3000)], 5, HOP) == [(0, 2), (2, 5)]
    assert word_frames([(319, 959)], 5, HOP) == [(0, 1)]
    assert word_frames([(320, 960)], 5, HOP) == [(1, 2)]


def test_words_crowded_at_the_end_move_back() -> None:
    assert word_frames([(3200, 3200), (3200, 3200), (3200, 3200)], 5, HOP) == [(2, 3), (3, 4), (4, 5)]


def test_leading_silence_joins_the_first_word_when_merged() -> None:
    assert aligned_patches([(2, 3), (5, 7)], 9, "merged") == ([0, 5, 9], [PATCH_WORD, PATCH_WORD], [0, 1])
    assert aligned_patches([(2, 3), (5, 7)], 9, "separate")[0] == [0, 2, 3, 5, 7, 9]


@given(timed_words(), timed_words(), st.sampled_from(["separate", "merged"]))
def test_uncovered_speech_is_filler_wherever_no_word_is(
    case: tuple[list[tuple[int, int]], int], other: tuple[list[tuple[int, int]], int], silence: str
) -> None:
    times, num_frames = case
    frames = word_frames(times, num_frames, HOP)
    spans = [(start // HOP, end // HOP) for start, end in other[0]]
    bounds, kind, index = aligned_patches(frames, num_frames, silence, spans)
    check_bounds(bounds, num_frames)
    taken = {frame for start, end in frames for frame in range(start, end)}
    filler = {frame for start, end in spans for frame in range(start, min(end, num_frames))} - taken
    told = {
        f for a, b, what in zip(bounds[:-1], bounds[1:], kind, strict=True) if what == PATCH_FILLER for f in range(a, b)
    }
    assert told == filler if silence == "separate" else told >= filler
    assert [i for i in index if i >= 0] == [i for i, (start, end) in enumerate(frames) if end > start]


def test_a_gap_with_speech_in_it_is_silence_filler_silence() -> None:
    bounds, kind, _ = aligned_patches([(0, 2), (10, 12)], 14, "separate", [(4, 7)])
    assert bounds == [0, 2, 4, 7, 10, 12, 14]
    assert kind == [PATCH_WORD, PATCH_SILENCE, PATCH_FILLER, PATCH_SILENCE, PATCH_WORD, PATCH_SILENCE]


@pytest.mark.parametrize("bounds", [[], [0], [1, 5], [0, 3, 3, 5], [0, 4], [0, 3, 2, 5]])
def test_bounds_that_do_not_tile_are_refused(bounds: list[int]) -> None:
    with pytest.raises(ValueError, match="do not tile"):
        check_bounds(bounds, 5)
