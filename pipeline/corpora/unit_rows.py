"""JSON lines with units: the official LST code's `interleaved` and slamkit's `units`, `duration` and `aligned_text`.

Either says when its words are spoken (`words: given`), and is enough for shards without audio (jobs/import_units.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from pipeline.corpora.base import to_decimal

SEPARATOR, SILENCE, JOINT = "<LST MODE SEP>", "[SIL]", "[BPE]"


@dataclass(frozen=True, kw_only=True)
class UnitRow:
    """One utterance: its units, one per frame, and its words as [start, end) in frames."""

    name: str
    units: list[int]
    words: list[tuple[str, int, int]]


def parse_unit_row(row: Mapping[str, Any], hop: int, num_units: int | None = None) -> UnitRow:
    """A row of either kind. `hop` is in samples at 16 kHz; units must be below `num_units` where it is given.

    Raises:
        ValueError: it is neither kind, or holds an unknown unit, or its words leave the units; a sentence without its place.
    """
    if isinstance(row.get("interleaved"), str):
        parsed = _interleaved(row)
    elif isinstance(row.get("units"), list):
        parsed = _slamkit(row, hop)
    else:
        found = ", ".join(map(str, row)) or "nothing"
        raise ValueError(f"looked for `interleaved` (official LST) or `units` (slamkit); it has {found}")
    for unit in parsed.units:
        if unit < 0 or (num_units is not None and unit >= num_units):
            raise ValueError(f"the unit {unit} is unknown: there are {num_units} units, from 0")
    if not parsed.units:
        raise ValueError("it holds no unit")
    return parsed


def _interleaved(row: Mapping[str, Any]) -> UnitRow:
    """`<SEP>TEXT word <SEP>HUBERT 7 7 49 ...`; units without a text before them, and the word [SIL], are silence."""
    units: list[int] = []
    words: list[tuple[str, int, int]] = []
    pending: list[str] = []
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
            edges = [begin + (len(units) - begin) * index // max(1, len(said)) for index in range(len(said) + 1)]
            words += [(word, start, end) for word, (start, end) in zip(said, pairwise(edges), strict=True)]
            pending = []
        else:
            raise ValueError(f"{mode!r} after {SEPARATOR} is neither TEXT nor HUBERT")
    words += [(word, len(units), len(units)) for word in _said(pending)]
    return UnitRow(name=str(row.get("file_id") or row.get("id") or ""), units=units, words=words)


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
    return UnitRow(name=str(row.get("file_name") or row.get("id") or ""), units=units, words=words)


def _frame(seconds: object, hop: int) -> int:
    """The frame nearest to a time; half a frame goes up, as in pipeline/patches.py."""
    return int(Fraction(to_decimal(seconds)) * 16_000 / hop + Fraction(1, 2))
