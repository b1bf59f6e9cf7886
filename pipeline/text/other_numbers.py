"""Numbers as they are said in other languages than English, by num2words: cardinals, years, decimals."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Any

import regex

DECIMAL_POINT = {
    "ja", "ko", "zh", "yue", "th", "he", "hi", "bn", "ta", "te", "kn", "ml", "mr", "gu", "pa", "ur", "my", "km", "lo", "tl",
    "ms",
}  # fmt: skip
"""Languages that write 1,234.5; the others write 1.234,5 or 1 234,5 or, in Switzerland, 1\u2019234,5."""
MOST_DIGITS = 15
"""Longer digit strings are read digit by digit."""
WITH_POINT = regex.compile(r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.(?P<decimals>\d+))?")
WITH_COMMA = regex.compile(
    r"(?P<whole>\d{1,3}(?:(?P<between>[.'\u2019\u00a0\u2009\u202f])\d{3})(?:(?P=between)\d{3})*(?!\d)|\d+)"
    r"(?:,(?P<decimals>\d+))?"
)
ORDINALS = {
    "fr": regex.compile(r"(?P<whole>\d{1,15})(?:er|(?P<feminine>re|\u00e8re)|i?[e\u00e8]?me|e)s?(?!\p{L})"),
    **dict.fromkeys(("es", "it", "pt"), regex.compile(r"(?P<whole>\d{1,15})\.?(?:\u00ba|(?P<feminine>\u00aa))")),
}
"""How languages mark an ordinal beside its digits: 1er, 1re, 2e; 1\u00ba, 1\u00aa."""
WORD = regex.compile(r"\p{L}[\p{L}\p{M}'\u2019]*")


def match_number(text: str, place: int, language: str) -> Any:
    """The number that begins at a place, as a match with `whole` and `decimals`; None where there is none."""
    return (WITH_POINT if language in DECIMAL_POINT else WITH_COMMA).match(text, place)


def match_ordinal(text: str, place: int, language: str) -> Any:
    """The ordinal that begins at a place, as a match with `whole` and `feminine`; None where there is none, or none is known."""
    return ORDINALS[language].match(text, place) if language in ORDINALS else None


def say_ordinal_in(match: Any, language: str) -> list[str]:
    """The words of an ordinal in its gender."""
    said = _say(str(int(match["whole"])), language, "ordinal")
    if match["feminine"] is None:
        return said
    if language == "fr":
        return [*said[:-1], "premi\u00e8re"] if said[-1:] == ["premier"] else said
    return [word[:-1] + "a" if word.endswith("o") else word for word in said]


def say_number_in(match: Any, language: str) -> list[str]:
    """The words of a number; its digits where num2words does not know the language or the number."""
    whole = "".join(str(int(digit)) for digit in match["whole"] if digit.isdigit())
    decimals = "".join(str(int(digit)) for digit in match["decimals"] or "")
    if len(whole) > MOST_DIGITS or len(decimals) > MOST_DIGITS or (len(whole) > 1 and whole[0] == "0"):
        said = [word for digit in whole + decimals for word in _say(digit, language)]
    elif decimals:
        said = _say(f"{whole}.{decimals}", language)
    else:
        is_year = len(match["whole"]) == 4 and 1100 <= int(whole) <= 1999
        said = _say(whole, language, "year" if is_year else "cardinal")
    return said or [digits for digits in (whole, decimals) if digits]


@lru_cache(maxsize=1 << 16)
def _say(number: str, language: str, kind: str = "cardinal") -> list[str]:
    """The words of a number; as a cardinal where the language has no such kind of it."""
    from num2words import CONVERTER_CLASSES, num2words

    if language not in CONVERTER_CLASSES:
        return []
    value = Decimal(number) if "." in number else int(number)
    for form in dict.fromkeys((kind, "cardinal")):
        try:
            said = str(num2words(value, lang=language, to=form))
        except (
            Exception
        ):  # what a language of num2words lacks may be any error: Vietnamese has no years, and says AttributeError
            continue
        return [str(word) for word in WORD.findall(said.lower())]
    return []
