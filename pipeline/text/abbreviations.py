"""How English speakers say what writers shorten: titles, firms, months, units and Roman numerals.

Only what its neighbours make sure of; the rest keeps its letters ("St" alone, "an IV drip").
"""

from __future__ import annotations

import re

from pipeline.text.spoken_numbers import cardinal, ordinal

ANYWHERE = {"mr": "mister", "mrs": "missus", "messrs": "messieurs", "vs": "versus", "etc": "et cetera"}
"""No other word is written so."""
BEFORE_A_NAME = {
    "capt": "captain", "col": "colonel", "gen": "general", "gov": "governor", "lt": "lieutenant", "prof": "professor",
    "rev": "reverend", "sen": "senator", "sgt": "sergeant",
}  # fmt: skip
OF_PLACES = {"mt": "mount", "st": "saint"}
"""Before a name too, and often without a full stop."""
AFTER_A_NAME = {
    "bros": "brothers", "co": "company", "corp": "corporation", "dr": "drive", "inc": "incorporated", "jr": "junior",
    "ltd": "limited", "sr": "senior", "st": "street",
}  # fmt: skip
BESIDE_A_NUMBER = {
    "jan": "january", "feb": "february", "mar": "march", "apr": "april", "aug": "august", "sep": "september",
    "sept": "september", "oct": "october", "nov": "november", "dec": "december",
}  # fmt: skip
BEFORE_A_NUMBER = {"No": "number", "Nos": "numbers", "Vol": "volume", "vol": "volume", "Fig": "figure", "pp": "pages"}
"""As they are written: a small "no." ends a sentence."""
AFTER_A_NUMBER = {
    "km": "kilometers", "cm": "centimeters", "mm": "millimeters", "kg": "kilograms", "lb": "pounds", "lbs": "pounds",
    "oz": "ounces", "ft": "feet", "mph": "miles per hour",
}  # fmt: skip
ROMAN = re.compile(r"X{0,3}(?:IX|IV|V?I{0,3})")
"""II to XXXIX; one letter alone may be a name's."""
COUNTED = {
    "act", "appendix", "article", "book", "canto", "chapter", "class", "level", "part", "phase", "scene", "section",
    "type", "volume", "war",
}  # fmt: skip
"""Words after which a Roman numeral is said as a cardinal, not as a king's ordinal."""


def say_abbreviation(word: str, dotted: bool, before: str, after: str) -> list[str] | None:
    """What is said for a word that is written short, or None where it is not, or its neighbours leave it open.

    `dotted`: a full stop follows it. `before` and `after`: the words beside it as they are written, "" at the ends.
    """
    key, named = word.lower(), before[:1].isupper() or before == "&"
    said = ANYWHERE.get(key)
    if said is None and key == "dr":
        said = "doctor" if after[:1].isupper() or not (dotted and named) else AFTER_A_NAME[key]
    if said is None and after[:1].isupper() and word[0].isupper():
        said = OF_PLACES.get(key) or (BEFORE_A_NAME.get(key) if dotted else None)
    if said is None and dotted and named:
        said = AFTER_A_NAME.get(key)
    if said is None and dotted and after[:1].isdigit():
        said = BEFORE_A_NUMBER.get(word)
    if said is None and dotted and (after[:1].isdigit() or before[:1].isdigit()):
        said = BESIDE_A_NUMBER.get(key)
    if said is None and before[-1:].isdigit():
        said = AFTER_A_NUMBER.get(key)
    return said.split() if said else _roman(word, before)


def _roman(word: str, before: str) -> list[str] | None:
    if len(word) < 2 or not ROMAN.fullmatch(word):
        return None
    digits = [{"I": 1, "V": 5, "X": 10}[letter] for letter in word]
    value = sum(-one if one < following else one for one, following in zip(digits, [*digits[1:], 0], strict=True))
    if before.lower() in COUNTED:
        return cardinal(value)
    return ["the", *ordinal(value)] if before[:1].isupper() else None
