"""Numbers as they are said in other languages than English, by num2words: cardinals, years, decimals."""

from __future__ import annotations

from decimal import Decimal
from functools import cache
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
WORD = regex.compile(r"\p{L}[\p{L}\p{M}'\u2019]*")


def match_number(text: str, place: int, language: str) -> Any:
    """The number that begins at a place, as a match with `whole` and `decimals`; None where there is none."""
    return (WITH_POINT if language in DECIMAL_POINT else WITH_COMMA).match(text, place)


def say_number_in(match: Any, language: str) -> list[str]:
    """The words of a number; its digits where num2words does not know the language or the number."""
    whole = "".join(str(int(digit)) for digit in match["whole"] if digit.isdigit())
    decimals = "".join(str(int(digit)) for digit in match["decimals"] or "")
    if len(whole) > MOST_DIGITS or len(decimals) > MOST_DIGITS or (len(whole) > 1 and whole[0] == "0"):
        said = [word for digit in whole + decimals for word in _say(digit, language, False)]
    elif decimals:
        said = _say(f"{whole}.{decimals}", language, False)
    else:
        said = _say(whole, language, len(match["whole"]) == 4 and 1100 <= int(whole) <= 1999)
    return said or [digits for digits in (whole, decimals) if digits]


@cache
def _say(number: str, language: str, is_year: bool) -> list[str]:
    from num2words import CONVERTER_CLASSES, num2words

    if language not in CONVERTER_CLASSES:
        return []
    value = Decimal(number) if "." in number else int(number)
    for kind in ("year", "cardinal") if is_year else ("cardinal",):
        try:
            said = str(num2words(value, lang=language, to=kind))
        except (
            Exception
        ):  # what a language of num2words lacks may be any error: Vietnamese has no years, and says AttributeError
            continue
        return [str(word) for word in WORD.findall(said.lower())]
    return []
