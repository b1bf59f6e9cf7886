"""Praat TextGrids (the Montreal Forced Aligner's), parsed by praatio: words with times, and utterances where a tier has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from praatio.utilities.errors import PraatioException
from praatio.utilities.textgrid_io import parseTextgridStr

from pipeline.corpora.base import to_samples
from schemas.given import GivenSegment, GivenWord

WORD_TIERS = ("words", "word")
SEGMENT_TIERS = ("segments", "utterances")
SILENCE = frozenset(("", "sil", "sp", "spn", "<eps>", "<sil>", "[sil]", "<p:>", "silence", "#"))
"""Labels, in lower case, of intervals without a word."""
BEFORE_0 = re.compile(r"^\s*xm(?:in|ax) = (-\d+(?:\.\d+)?)", re.MULTILINE)
CHANNEL = re.compile(r"channel ([1-9][0-9]{0,2}) - ", re.IGNORECASE)
"""How `lst export` begins the name of a tier of one channel, counted from 1 as in a CTM."""


def read_textgrid(content: bytes, place: str) -> tuple[list[GivenWord], list[GivenSegment]]:
    """The words and the utterances of a TextGrid, long or short, in UTF-8 or UTF-16. A tier may be called "SPEAKER - words",
    and "channel 2 - words" holds those of the second channel.

    Raises:
        ValueError: it cannot be read, is cut short, or has no word; a sentence without the file's name.
    """
    tiers = _tiers(_decode(content))
    words = [(_channel(name), *entry) for name, entries in tiers for entry in entries if _is(name, WORD_TIERS)]
    if not any(_is(name, WORD_TIERS) for name, _ in tiers):
        raise ValueError(f"it has no tier `words`; it has {', '.join(name for name, _ in tiers) or 'none'}")
    if not words:
        raise ValueError("its tier `words` holds no word")
    utterances = [(_channel(name), *entry) for name, entries in tiers for entry in entries if _is(name, SEGMENT_TIERS)]
    return [(label, start, end, channel) for channel, start, end, label in sorted(words)], [
        GivenSegment(place=f"{place}#segments[{number}]", start=start, end=end, channel=channel, text=label)
        for number, (channel, start, end, label) in enumerate(sorted(utterances), start=1)
    ]


def _channel(tier: str) -> int:
    """Which channel a tier speaks of; -1 where its name does not say."""
    named = CHANNEL.match(tier)
    return int(named[1]) - 1 if named else -1


def _is(name: str, wanted: Sequence[str]) -> bool:
    return name.rpartition(" - ")[2].strip().lower() in wanted


def _decode(content: bytes) -> str:
    """The text with lines that end in \\n: a Mac of old ended them in \\r."""
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xfe\xff", b"\xff\xfe") else "utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is neither UTF-8 nor UTF-16: {error.reason} at byte {error.start}") from error


def _tiers(text: str) -> list[tuple[str, list[tuple[int, int, str]]]]:
    """(name, intervals with a label as (start, end, label) in samples) of each tier of intervals."""
    if "ooTextFile" not in text[:100]:
        raise ValueError("it is no TextGrid: it does not begin with ooTextFile")
    if early := next((time for time in BEFORE_0.findall(text) if to_samples(time[1:])), None):  # praatio drops the sign
        raise ValueError(f"it has the time {early} s, before its recording begins: shift its times in Praat")
    try:
        tiers: list[dict[str, Any]] = parseTextgridStr(text, includeEmptyIntervals=True)["tiers"]
        found = []
        for tier in tiers:
            if tier["class"] != "IntervalTier":
                continue
            intervals = [
                (to_samples(start), to_samples(end), str(label).strip()) for start, end, label in tier["entries"]
            ]
            if not intervals or intervals[-1][1] < to_samples(tier["xmax"]) - 16:
                raise ValueError(f"its tier {tier['name']} ends before its time: the file is cut short")
            found.append((str(tier["name"]), [row for row in intervals if row[2].lower() not in SILENCE]))
    except (PraatioException, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"it cannot be read as a TextGrid: {error}") from error
    return found
