"""How English speakers say what writers write in digits: cardinals, ordinals, years, decades, money, clock times."""

from __future__ import annotations

import re

ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
CURRENCIES = {"$": ("dollar", "cent"), "£": ("pound", "pence"), "€": ("euro", "cent")}
LARGEST = 10**15
"""Longer digit strings are read digit by digit, as telephone and card numbers are."""

NUMBER = re.compile(
    r"(?P<currency>[$£€])?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)"
    r"(?:(?P<ordinal>st|nd|rd|th)\b|(?P<decade>s)\b|:(?P<minutes>[0-5]\d)\b|\.(?P<decimals>\d+))?(?P<percent>%)?",
    re.IGNORECASE,
)


def cardinal(value: int) -> list[str]:
    """0 <= value < 10**15 in words, American style (no "and")."""
    assert 0 <= value < LARGEST
    if value < 20:
        return [ONES[value]]
    if value < 100:
        return [TENS[value // 10], *([ONES[value % 10]] if value % 10 else [])]
    scale, name = next(pair for pair in SCALES if value >= pair[0])
    rest = value % scale
    return [*cardinal(value // scale), name, *(cardinal(rest) if rest else [])]


def ordinal(value: int) -> list[str]:
    """1 -> first, 22 -> twenty second."""
    *before, last = cardinal(value)
    if last in ORDINALS:
        return [*before, ORDINALS[last]]
    return [*before, last[:-1] + "ieth" if last.endswith("y") else last + "th"]


def year(value: int) -> list[str]:
    """A number of four digits as a year is said: 1984, 1905, 1900, 2000 (a cardinal until 2009), 2024."""
    assert 1000 <= value <= 9999
    century, rest = divmod(value, 100)
    if century % 10 == 0 and rest < 10:
        return cardinal(value)
    tail = cardinal(rest) if rest >= 10 else ["oh", *cardinal(rest)] if rest else ["hundred"]
    return [*cardinal(century), *tail]


def say_number(match: re.Match[str]) -> list[str]:
    """The words for a match of NUMBER."""
    digits = match["whole"].replace(",", "")
    value = int(digits) if len(digits) <= len(str(LARGEST)) else LARGEST  # Python itself refuses the longest
    if value >= LARGEST or (len(digits) > 1 and digits[0] == "0" and not match["minutes"]):
        words = [ONES[int(digit)] for digit in digits]
    elif match["ordinal"]:
        words = ordinal(value)
    elif match["decade"]:
        words = _plural(year(value) if 1000 <= value <= 9999 else cardinal(value))
    elif match["minutes"]:
        words = _clock(value, int(match["minutes"]))
    elif match["currency"]:
        return _money(value, match["currency"], match["decimals"])
    elif 1100 <= value <= 2099 and len(match["whole"]) == 4 and not match["decimals"]:
        words = year(value)
    else:
        words = cardinal(value)
    if match["decimals"]:
        words = [*words, "point", *(ONES[int(digit)] for digit in match["decimals"])]
    return [*words, "percent"] if match["percent"] else words


def _plural(words: list[str]) -> list[str]:
    last = words[-1]
    return [*words[:-1], last[:-1] + "ies" if last.endswith("y") else last + ("es" if last.endswith("x") else "s")]


def _clock(hours: int, minutes: int) -> list[str]:
    if minutes == 0:
        return [*cardinal(hours), "o'clock"] if 1 <= hours <= 12 else [*cardinal(hours), "hundred"]
    return [*cardinal(hours), *(["oh"] if minutes < 10 else []), *cardinal(minutes)]


def _money(value: int, sign: str, decimals: str | None) -> list[str]:
    unit, part = CURRENCIES[sign]
    if decimals is not None and len(decimals) != 2:  # $1.5, as in "$1.5 million"
        return [*cardinal(value), "point", *(ONES[int(digit)] for digit in decimals), unit + "s"]
    words = [*cardinal(value), unit if value == 1 else unit + "s"]
    if decimals and int(decimals):
        cents = int(decimals)
        words += ["and", *cardinal(cents), part if cents == 1 or part == "pence" else part + "s"]
    return words
