"""Praat TextGrids, one per recording beside where its audio would lie: tiers `words` and `segments`.

The long text form, as Praat writes it and the Montreal Forced Aligner leaves it. Channels that were cut apart have tiers of
their own, `channel 1 - words` as the aligner names those of a speaker, which `source.words` takes for what they say. Silence
is an interval with no text. A TextGrid has no interval of no length, so a word without a frame is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobs.exports.spoken import FileNames, SpokenSegment, recordings_of, seconds, uris_of, write_whole
from model.data.shards import ShardSet

Interval = tuple[int, int, str]
"""Start and end in samples at 16 kHz, and a text."""


def export(shards: ShardSet, out: Path) -> str:
    """Write `out/<path of the audio>.TextGrid` for every recording; returns a sentence about it."""
    files = words = lost = 0
    names = FileNames(uris_of(shards))
    for tracks in recordings_of(shards):
        write_whole(out / f"{names.of(tracks[0][0])}.TextGrid", textgrid(tracks))
        files += 1
        spoken = [word for track in tracks for segment in track for word in segment.words]
        words += len(spoken)
        lost += sum(word.start == word.end for word in spoken)
    return f"{files} TextGrids, {words - lost} words" + (f" ({lost} without a frame left out)" if lost else "")


def textgrid(tracks: Sequence[Sequence[SpokenSegment]]) -> str:
    """The TextGrid of one recording, which ends with its last segment."""
    end = max(segment.end for track in tracks for segment in track)
    tiers = [tier for track in tracks for tier in _tiers(track)]
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {seconds(end)}",
        "tiers? <exists>", f"size = {len(tiers)}", "item []:",
    ]  # fmt: skip
    for number, (name, spoken) in enumerate(tiers, start=1):
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


def _tiers(track: Sequence[SpokenSegment]) -> list[tuple[str, list[Interval]]]:
    """The tiers of words and of segments, by name."""
    words = [
        (segment.at(word.start), segment.at(word.end), word.text)
        for segment in track
        for word in segment.words
        if word.end > word.start
    ]
    channel = "" if track[0].channel is None else f"channel {track[0].channel + 1} - "
    segments = [(segment.start, segment.end, segment.text) for segment in track]
    return [(f"{channel}words", words), (f"{channel}segments", segments)]


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
