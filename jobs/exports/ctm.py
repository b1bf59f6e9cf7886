"""NIST CTM: `recording channel start duration word`, one line a word, all recordings in `words.ctm`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from jobs.exports.spoken import one_word, seconds, tracks_of, write_whole
from model.data.shards import ShardSet
from schemas.given import ctm_name, stem_of


def export(shards: ShardSet, out: Path) -> str:
    """Write `out/words.ctm`; returns a sentence about it.

    A recording goes by the path of its audio without suffix, or with it where another would be called so too.
    """
    spoken: list[tuple[str, str]] = []
    """Whose each word is, by uri, and its columns from the second on."""
    for track in tracks_of(shards):
        uri, channel = track[0].uri, (track[0].channel or 0) + 1
        for segment in track:
            for word in segment.words:
                start, end = segment.at(word.start), segment.at(word.end)
                spoken.append((uri, f"{channel} {seconds(start)} {seconds(end - start)} {one_word(word.text)}\n"))
    names = names_of({uri for uri, _ in spoken})
    write_whole(out / "words.ctm", "".join(f"{names[uri]} {columns}" for uri, columns in spoken))
    return f"{len(spoken)} words in words.ctm"


def names_of(uris: Collection[str]) -> dict[str, str]:
    """What each recording is called, as `source.words` reads it."""
    taken = Counter(name for uri in uris for name in {stem_of(uri), uri})
    return {uri: ctm_name(stem_of(uri) if taken[stem_of(uri)] < 2 else uri) for uri in uris}
