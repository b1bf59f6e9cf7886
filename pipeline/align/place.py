"""From the times that an aligner found to words that tile their segment: gaps filled, order and least length kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.align.base import AlignError, WordTiming

MIN_WORD = 320
"""20 ms: what an interpolated word is given at least, where its neighbours can spare it."""


def place_words(found: Sequence[WordTiming | None], lengths: Sequence[int], num_samples: int) -> list[WordTiming]:
    """Give the tokens without timing a place between their neighbours, in proportion to their lengths in characters.

    Where the neighbours leave less than MIN_WORD per token they give up half of theirs, and are flagged as well.

    Raises:
        AlignError: no token was found, or the segment is too short for its words.
    """
    placed = list(found)
    if all(timing is None for timing in placed):
        raise AlignError("not one word of the transcript could be aligned")
    index = 0
    while index < len(placed):
        if placed[index] is not None:
            index += 1
            continue
        stop = index
        while stop < len(placed) and placed[stop] is None:
            stop += 1
        _fill(placed, index, stop, lengths, num_samples)
        index = stop
    timings = [timing for timing in placed if timing is not None]
    end = 0
    for timing in timings:
        if not end <= timing.start < timing.end <= num_samples:
            raise AlignError("the segment is too short for the words of its transcript")
        end = timing.end
    return timings


def _fill(placed: list[WordTiming | None], first: int, stop: int, lengths: Sequence[int], num_samples: int) -> None:
    """Place tokens [first, stop), all None, between their placed neighbours (or the segment's ends)."""
    before = placed[first - 1] if first else None
    after = placed[stop] if stop < len(placed) else None
    low = before.end if before else 0
    high = after.start if after else num_samples
    if high - low < MIN_WORD * (stop - first):
        if before is not None:
            low = before.end - (before.end - before.start) // 2
            placed[first - 1] = replace(before, end=low, timing="interpolated", char_times=())
        if after is not None:
            high = after.start + (after.end - after.start) // 2
            placed[stop] = replace(after, start=high, timing="interpolated", char_times=())
    if high - low < stop - first:
        raise AlignError("the segment is too short for the words of its transcript")
    weights = np.cumsum([0, *(max(1, lengths[index]) for index in range(first, stop))])
    spare = high - low - (stop - first)  # every word has one sample for certain, the rest is shared out
    edges = [low + offset + int(spare * int(weight) // int(weights[-1])) for offset, weight in enumerate(weights)]
    for offset, index in enumerate(range(first, stop)):
        placed[index] = WordTiming(start=edges[offset], end=edges[offset + 1], score=0.0, timing="interpolated")
