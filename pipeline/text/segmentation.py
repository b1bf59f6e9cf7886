"""Where words begin in scripts that put no space between them: Thai, Lao, Khmer, Burmese, by ICU's dictionaries; Tibetan, whose
syllables end in a mark of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

NO_SPACES = re.compile(
    r"[\u0e01-\u0e7f]+|[\u0e80-\u0eff]+|[\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f]+|[\u1780-\u17ff]+|[\u0f00-\u0fff]+"
)
"""Runs of one script: Thai, Lao, Burmese (Myanmar), Khmer, Tibetan."""
TIBETAN_SYLLABLE = re.compile(r"[^\u0f0b\u0f0c]*[\u0f0b\u0f0c]*")
"""Up to its tsheg, the point after every syllable; which of them are one word nothing says."""


def words_of_run(run: str) -> Iterator[tuple[int, int]]:
    """[start, end) of each word of a run of one of these scripts; together they are the run."""
    place = 0
    for part in _cut(run):
        yield place, place + len(part)
        place += len(part)


@lru_cache(maxsize=1 << 16)
def _cut(run: str) -> tuple[str, ...]:
    if "\u0f00" <= run[0] <= "\u0fff":
        return tuple(part for part in TIBETAN_SYLLABLE.findall(run) if part)
    from icu4py.breakers import WordBreaker

    # The root locale: ICU chooses the dictionary by the script itself.
    parts = tuple(str(part) for part in WordBreaker(run, "th"))
    assert "".join(parts) == run, "ICU's words are the text"
    return parts
