"""Text for a terminal: columns, folding and cutting by display width, and texts from outside made printable."""

from __future__ import annotations

import re
import unicodedata

DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """A text from outside without what a terminal or a page would obey: control characters and changes of direction."""
    return "".join(char for char in text if unicodedata.category(char) not in ("Cc", "Cs") and char not in DIRECTIONS)


def fold(text: str, width: int, first: str, rest: str) -> list[str]:
    """A text in lines of at most `width` terminal columns, only longer words stand out; `first`, `rest`: indents."""
    lines = [first]
    for piece in re.findall(r"\s*\S+", text):
        if lines[-1].strip() and columns(lines[-1] + piece) > width:
            lines.append(rest + piece.lstrip())
        else:
            lines[-1] += piece
    return lines


def columns(text: str) -> int:
    """Terminal columns that a text takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def cut(text: str, size: int) -> str:
    """A text of at most `size` terminal columns, with an ellipsis where it was longer."""
    if columns(text) <= size:
        return text
    kept, room = "", size - 1
    for char in text:
        room -= columns(char)
        if room < 0:
            break
        kept += char
    return kept + "…" if size > 0 else ""


def pad(text: str, size: int) -> str:
    """A cell of the given size."""
    short = cut(text, size)
    return short + " " * (size - columns(short))
