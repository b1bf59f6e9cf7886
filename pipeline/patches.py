"""Stage "patches": word-aligned patch bounds over a segment's units (paper section 2: one patch per word, one per silence)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from pipeline.source.base import AudioReader
from pipeline.stage import StageResult, WithoutModel, rows_of
from schemas.arrow import Row
from schemas.audio import PATCH_FILLER, PATCH_SILENCE, PATCH_WORD
from schemas.spec import PatchesSpec
from schemas.tables import Patches, Segment, Units, Word


def word_frames(times: Sequence[tuple[int, int]], num_frames: int, hop: int) -> list[tuple[int, int]]:
    """The frames [start, end) of each word: ordered, disjoint, inside [0, num_frames).

    Times (16 kHz samples, ordered) are rounded to the nearest frame; then a word that would have none is given one, at
    the expense of its neighbours. Only where there are more words than frames do words remain without one.
    """
    count = len(times)
    if count > num_frames:
        return [(i * num_frames // count, (i + 1) * num_frames // count) for i in range(count)]
    spans: list[tuple[int, int]] = []
    taken = 0
    for start, end in times:
        first = max((start + hop // 2) // hop, taken)
        taken = max((end + hop // 2) // hop, first + 1)
        spans.append((first, taken))
    limit = num_frames
    for i in range(count - 1, -1, -1):  # what ran over the end moves back, word by word
        start, end = spans[i]
        end = min(end, limit)
        limit = min(start, end - 1)
        spans[i] = (limit, end)
    return spans


def aligned_patches(
    frames: Sequence[tuple[int, int]], num_frames: int, silence: str, uncovered: Sequence[tuple[int, int]] = ()
) -> tuple[list[int], list[int], list[int]]:
    """Bounds [P + 1], kind [P] and word index [P] (-1 for silence and filler) of the word-aligned patches.

    A gap between words is silence, and filler where it holds frames of `uncovered` (ordered). `silence="separate"`: silence is a
    patch. `"merged"`: it joins the patch before it, the first silence the one after it. Bounds tile [0, num_frames) exactly.
    """
    spoken = [(start, end, index) for index, (start, end) in enumerate(frames) if end > start]
    pieces: list[tuple[int, int, int]] = []
    position = 0
    for start, end, index in spoken:
        pieces += _gap(position, start, uncovered)
        pieces.append((start, PATCH_WORD, index))
        position = end
    pieces += _gap(position, num_frames, uncovered)
    if silence == "merged" and spoken:
        pieces = [piece for piece in pieces if piece[1] != PATCH_SILENCE]
        pieces[0] = (0, *pieces[0][1:])
    bounds = [piece[0] for piece in pieces] + [num_frames]
    return bounds, [piece[1] for piece in pieces], [piece[2] for piece in pieces]


def _gap(start: int, end: int, uncovered: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """The patches of a gap [start, end) between words: (first frame, kind, -1) each."""
    pieces = []
    for low, high in uncovered:
        low, high = max(low, start), min(high, end)
        if high > low:
            if low > start:
                pieces.append((start, PATCH_SILENCE, -1))
            pieces.append((low, PATCH_FILLER, -1))
            start = high
    if end > start:
        pieces.append((start, PATCH_SILENCE, -1))
    return pieces


def check_bounds(bounds: Sequence[int], num_frames: int) -> None:
    """Raises ValueError unless bounds are strictly increasing from 0 to num_frames."""
    if not bounds or bounds[0] != 0 or bounds[-1] != num_frames or any(a >= b for a, b in pairwise(bounds)):
        raise ValueError(f"patch bounds {list(bounds)} do not tile [0, {num_frames})")


class PatchesStage(WithoutModel):
    """Puts words and units together. A segment without units or without words was rejected by the stage that lost it."""

    name = Patches.TABLE
    version = 2
    inputs: tuple[str, ...] = (Word.TABLE, Units.TABLE, Segment.TABLE)

    def __init__(self, spec: PatchesSpec, hop: int):
        self.spec = spec
        self.hop = hop

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """One row per segment that has both words and units."""
        words: dict[str, list[Word]] = {}
        for word in rows_of(tables, Word):
            words.setdefault(word.segment_id, []).append(word)
        spoken = [units for units in rows_of(tables, Units) if units.segment_id in words]
        rows = [self._patches(units, words[units.segment_id]) for units in spoken]
        return StageResult(rows=rows)

    def _patches(self, units: Units, words: Sequence[Word]) -> Patches:
        words = sorted(words, key=lambda word: word.word_index)
        times = [(word.start, word.end) for word in words]
        frames = word_frames(times, units.num_frames, self.hop)
        edges = [(edge + self.hop // 2) // self.hop for word in words for edge in word.uncovered]
        uncovered = list(zip(edges[::2], edges[1::2], strict=True))
        bounds, kind, index = aligned_patches(frames, units.num_frames, self.spec.silence, uncovered)
        check_bounds(bounds, units.num_frames)
        return Patches(
            segment_id=units.segment_id,
            bounds=bounds,
            kind=kind,
            word_index=index,
            word_frames=[edge for span in frames for edge in span],
            policy=f"aligned/silence-{self.spec.silence}",
        )
