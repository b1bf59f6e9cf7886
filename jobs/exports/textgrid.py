"""Praat TextGrids, one per recording beside where its audio would lie: tiers `words` and `segments`.

The long text form, as Praat writes it and the Montreal Forced Aligner leaves it. Silence is an interval with no text. A
TextGrid has no interval of no length, so a word without a frame is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobs.exports.spoken import FileNames, SpokenSegment, seconds, tracks_of, write_whole
from model.data.shards import ShardSet

Interval = tuple[int, int, str]
"""Start and end in samples at 16 kHz, and a text."""


def export(shards: ShardSet, out: Path) -> str:
    """Write `out/<path of the audio>.TextGrid` for every recording; returns a sentence about it."""
    files = words = lost = 0
    names = FileNames()
    for track in tracks_of(shards):
        write_whole(out / f"{names.of(track[0])}.TextGrid", textgrid(track))
        files += 1
        words += sum(len(segment.words) for segment in track)
        lost += sum(word.start == word.end for segment in track for word in segment.words)
    return f"{files} TextGrids, {words - lost} words" + (f" ({lost} without a frame left out)" if lost else "")


def textgrid(track: Sequence[SpokenSegment]) -> str:
    """The TextGrid of one track, which ends with its last segment."""
    end = max(segment.end for segment in track)
    words = [
        (segment.at(word.start), segment.at(word.end), word.text)
        for segment in track
        for word in segment.words
        if word.end > word.start
    ]
    segments = [(segment.start, segment.end, segment.text) for segment in track]
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {seconds(end)}",
        "tiers? <exists>", "size = 2", "item []:",
    ]  # fmt: skip
    for number, (name, spoken) in enumerate((("words", words), ("segments", segments)), start=1):
        intervals = _tiled(spoken, end)
        lines += [
            f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"', "        xmin = 0",
            f"        xmax = {seconds(end)}", f"        intervals: size = {len(intervals)}",
        ]  # fmt: skip
        for index, (start, stop, text) in enumerate(intervals, start=1):
            lines += [
                f"        intervals [{index}]:",
                f"            xmin = {seconds(start)}",
                f"            xmax = {seconds(stop)}",
                f'            text = "{_quoted(text)}"',
            ]
    return "\n".join(lines) + "\n"


def _tiled(spoken: Sequence[Interval], end: int) -> list[Interval]:
    """The intervals with empty ones between them, from 0 to `end`."""
    tiled, position = [], 0
    for start, stop, text in sorted(spoken):
        if start > position:
            tiled.append((position, start, ""))
        tiled.append((start, stop, text))
        position = stop
    if position < end:
        tiled.append((position, end, ""))
    return tiled


def _quoted(text: str) -> str:
    return text.replace('"', '""')
