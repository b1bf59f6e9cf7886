"""JSON lines with units: the official LST code's `interleaved` and slamkit's `units`, `duration` and `aligned_text`.

Either says when its words are spoken (`words: given`), and is enough for shards without audio (jobs/corpora/import_units.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

from pipeline.corpora.base import to_decimal
from schemas.tables import Timing

SEPARATOR, SILENCE, JOINT = "<LST MODE SEP>", "[SIL]", "[BPE]"


@dataclass(frozen=True, kw_only=True)
class UnitRow:
    """One utterance: its units, one per frame, and its words as [start, end) in frames."""

    name: str
    units: list[int]
    words: list[tuple[str, int, int]]
    text: str | None = None
    language: str | None = None
    timing: list[Timing] | None = None
    num_silences: int = 0
    """As the row has them: official LST writes some without a unit, which no patch can be."""


def parse_unit_row(row: Mapping[str, Any], hop: int, num_units: int | None = None) -> UnitRow:
    """A row of any of the kinds. `hop` is in samples at 16 kHz; units must be below `num_units` where it is given.

    Raises:
        ValueError: it is of no kind, or holds an unknown unit, or its words leave the units; a sentence without its place.
    """
    try:
        parsed = _parsed(row, hop)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"a value in it is of another kind than its format has there: {error}") from error
    for unit in parsed.units:
        if unit < 0 or (num_units is not None and unit >= num_units):
            raise ValueError(f"the unit {unit} is unknown: there are {num_units} units, from 0")
    if not parsed.units:
        raise ValueError("it holds no unit")
    return parsed


def _parsed(row: Mapping[str, Any], hop: int) -> UnitRow:
    if isinstance(row.get("interleaved"), str):
        return _interleaved(row)
    if isinstance(row.get("units"), list):
        return _slamkit(row, hop)
    if isinstance(row.get("supervisions"), list):
        return _cut(row, hop)
    found = ", ".join(map(str, row)) or "nothing"
    raise ValueError(
        f"looked for `interleaved` (official LST), `units` (slamkit) or `supervisions` with units (lhotse); it has {found}"
    )


def _interleaved(row: Mapping[str, Any]) -> UnitRow:
    """`<SEP>TEXT word <SEP>HUBERT 7 7 49 ...`; units without a text before them, and the word [SIL], are silence."""
    units: list[int] = []
    words: list[tuple[str, int, int]] = []
    pending: list[str] = []
    num_silences = 0
    for piece in row["interleaved"].split(SEPARATOR):
        mode, _, content = piece.strip().partition(" ")
        if not mode:
            continue
        if mode == "TEXT":
            words += [(word, len(units), len(units)) for word in _said(pending)]  # a word that no units follow
            pending = content.split()
        elif mode == "HUBERT":
            begin = len(units)
            units += [_unit(token) for token in content.split()]
            said = _said(pending)
            num_silences += not said
            edges = [begin + (len(units) - begin) * index // max(1, len(said)) for index in range(len(said) + 1)]
            words += [(word, start, end) for word, (start, end) in zip(said, pairwise(edges), strict=True)]
            pending = []
        else:
            raise ValueError(f"{mode!r} after {SEPARATOR} is neither TEXT nor HUBERT")
    words += [(word, len(units), len(units)) for word in _said(pending)]
    return UnitRow(
        name=str(row.get("file_id") or row.get("id") or ""), units=units, words=words, num_silences=num_silences
    )


def _said(tokens: list[str]) -> list[str]:
    return [token for token in tokens if token not in (SILENCE, JOINT)]


def _unit(token: str) -> int:
    if not token.isascii() or not token.isdigit():
        raise ValueError(f"{token!r} is not a unit")
    return int(token)


def _slamkit(row: Mapping[str, Any], hop: int) -> UnitRow:
    """Units without repeats and how often each is repeated; words as [word, start, end] in seconds from the first unit."""
    runs, counts = row["units"], row.get("duration") or [1] * len(row["units"])
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (*runs, *counts))
    if not whole or len(runs) != len(counts) or min(counts, default=1) < 1:
        raise ValueError("`units` and `duration` must be equally long lists of whole numbers, each duration at least 1")
    if sum(counts) * hop >= 1 << 31:
        raise ValueError(f"its {sum(counts)} units last longer than any recording")
    units = [unit for unit, count in zip(runs, counts, strict=True) for _ in range(count)]
    words: list[tuple[str, int, int]] = []
    position = 0
    for entry in row.get("aligned_text") or []:
        if not isinstance(entry, list) or len(entry) != 3:
            raise ValueError("`aligned_text` must be a list of [word, start, end]")
        start, end = (min(_frame(time, hop), len(units)) for time in entry[1:])
        if not position <= start <= end:
            raise ValueError(f"the words of `aligned_text` overlap or are out of order at {str(entry[0]).strip()!r}")
        words.append((str(entry[0]).strip(), start, end))
        position = end
    edges = [0, *(edge for _, start, end in words for edge in (start, end)), len(units)]
    gaps = sum(start < end for start, end in zip(edges[::2], edges[1::2], strict=True))
    text = row["text"].strip() if isinstance(row.get("text"), str) else None
    return UnitRow(
        name=str(row.get("file_name") or row.get("id") or ""),
        units=units,
        words=words,
        text=text or None,
        num_silences=gaps,
    )


def _cut(row: Mapping[str, Any], hop: int) -> UnitRow:
    """A lhotse cut with one supervision, whose custom fields hold the units; its alignment is on the cut's clock."""
    supervisions = row["supervisions"]
    custom = supervisions[0].get("custom") if len(supervisions) == 1 and isinstance(supervisions[0], dict) else None
    if not isinstance(custom, dict) or not isinstance(custom.get("units"), list):
        raise ValueError("its cut needs one supervision with `units` among the custom fields")
    if custom.get("hop", hop) != hop:
        raise ValueError(f"its units are of {custom['hop']} samples and --hop is {hop}")
    said = supervisions[0]
    aligned = [
        [item[0], item[1], str(to_decimal(item[1]) + to_decimal(item[2]))]
        for item in (said.get("alignment") or {}).get("word") or []
    ]
    parsed = _slamkit({"units": custom["units"], "aligned_text": aligned, "text": said.get("text")}, hop)
    timing = custom.get("timing")
    return replace(
        parsed,
        name=str(row.get("id") or ""),
        language=said.get("language"),
        timing=timing if isinstance(timing, list) and len(timing) == len(parsed.words) else None,
    )


def _frame(seconds: object, hop: int) -> int:
    """The frame nearest to a time; half a frame goes up, as in pipeline/patches.py."""
    return int(Fraction(to_decimal(seconds)) * 16_000 / hop + Fraction(1, 2))
