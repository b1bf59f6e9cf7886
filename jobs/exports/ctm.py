"""NIST CTM: `recording channel start duration word`, one line a word, all recordings in `words.ctm`."""

from __future__ import annotations

from pathlib import Path

from jobs.exports.spoken import FileNames, one_word, seconds, tracks_of, write_whole
from model.data.shards import ShardSet


def export(shards: ShardSet, out: Path) -> str:
    """Write `out/words.ctm`; returns a sentence about it.

    A recording goes by the path of its audio without suffix, or by its id where that has white space, which a CTM cannot hold.
    """
    names, lines = FileNames(), []
    for track in tracks_of(shards):
        name, channel = names.of(track[0]), (track[0].channel or 0) + 1
        name = track[0].recording_id if len(name.split()) != 1 else name
        for segment in track:
            for word in segment.words:
                start, end = segment.at(word.start), segment.at(word.end)
                lines.append(f"{name} {channel} {seconds(start)} {seconds(end - start)} {one_word(word.text)}\n")
    write_whole(out / "words.ctm", "".join(lines))
    return f"{len(lines)} words in words.ctm"
