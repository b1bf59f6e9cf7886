"""Transcripts as aligners need them: tokens with their place in the text, and the words a speaker says for each."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import regex

from pipeline.text.abbreviations import say_abbreviation
from pipeline.text.languages import language_code
from pipeline.text.other_numbers import match_number, match_ordinal, say_number_in, say_ordinal_in
from pipeline.text.segmentation import NO_SPACES, words_of_run
from pipeline.text.spoken_numbers import NUMBER, say_number

SYMBOLS = {
    "&": "and",
    "+": "plus",
    "=": "equals",
    "@": "at",
    "%": "percent",
    "$": "dollars",
    "\u00a3": "pounds",
    "\u20ac": "euros",
}
SCRIPT_WITHOUT_SPACES = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]"
"""Kana and Han: a character is a token of its own, for no space says where a word ends."""
DAKUTEN = r"[\uff9e\uff9f]"
"""Those of narrow kana, which are letters to Unicode and no marks."""
DIVIDERS = r"\u1361-\u1368\u0964\u0965"
"""Ethiopic's points, of which one stands between words instead of a space, and India's dandas, which no space need follow."""

IN_NUMBER = r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))"
"""A space that does not break a line, before three digits: it groups a number (12\u202f345), and ends no word."""
# A run without white space and dashes between words; a hyphen inside a word ("well-known") does not end it. Marks (a vowel of
# Hindi, a dakuten) belong to the character before them.
CHUNK = regex.compile(
    rf"{SCRIPT_WITHOUT_SPACES}{DAKUTEN}?\p{{M}}*|(?:(?!--|{SCRIPT_WITHOUT_SPACES})(?:[^\s—\u2013…{DIVIDERS}]|{IN_NUMBER}))+"
)
UNSPOKEN = "\u00ad\u0640\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
"""Soft hyphen, tatweel, joiners, marks of direction, byte order mark: written inside words and never said."""
INNER = rf"[\p{{L}}\p{{M}}{UNSPOKEN}]"
LETTERS = regex.compile(rf"\p{{L}}{INNER}*(?:['\u2019]\p{{L}}{INNER}*)*['\u2019]?")
INITIALS = regex.compile(r"(?:\p{L}\p{M}*\.){2,}")
LEADING_APOSTROPHE = regex.compile(r"['\u2019](?=\p{L})")
DIGITS = regex.compile(r"\d+")
HIDDEN = regex.compile(f"[{UNSPOKEN}]+")


@dataclass(frozen=True, kw_only=True)
class Token:
    """A word as it is written, text == transcript[char_start:char_end], and as it is said."""

    text: str
    char_start: int
    char_end: int
    spoken: tuple[str, ...]
    """One or more words, lower case, letters and apostrophes; digits and signs remain where the language has no rules."""


def tokenise(text: str, language: str = "en") -> list[Token]:
    """The words of a transcript in order, without the punctuation around them.

    Every letter and digit of `text` is in exactly one token, with the marks on it. Scripts without spaces are cut by
    character (Han, kana), by syllable (Tibetan) or by ICU's dictionaries (Thai, Lao, Khmer, Burmese). Symbols and
    abbreviations are spoken out in English alone, numbers in the languages that num2words knows.
    """
    language = language_code(language)
    spans = [(start, end) for chunk in _chunks(text) for start, end in [_trim(text, *chunk)] if start < end]
    words = [text[start:end] for start, end in spans]
    tokens = []
    for (start, end), word, before, after in zip(spans, words, ["", *words], [*words[1:], ""], strict=False):
        short = say_abbreviation(word, text.startswith(".", end), before, after) if language == "en" else None
        tokens.append(Token(text=word, char_start=start, char_end=end, spoken=tuple(short or _speak(word, language))))
    return tokens


def _chunks(text: str) -> Iterator[tuple[int, int]]:
    """[start, end) of what may be words, punctuation still around them."""
    for chunk in CHUNK.finditer(text):
        place = chunk.start()
        for run in NO_SPACES.finditer(text, *chunk.span()):
            if place < run.start():
                yield place, run.start()
            yield from ((run.start() + start, run.start() + end) for start, end in words_of_run(run[0]))
            place = run.end()
        if place < chunk.end():
            yield place, chunk.end()


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """[start, end) without outer punctuation; what is spoken ($, %, &) and an elision's apostrophe stay."""
    original_start, original_end = start, end
    while start < end and not _is_spoken(text[start]):
        start += 1
    while end > start and not (_is_spoken(text[end - 1]) or unicodedata.category(text[end - 1])[0] == "M"):
        end -= 1
    if start == end:
        return start, start
    if start > original_start and LEADING_APOSTROPHE.match(text, start - 1) and _is_elision(text[start:end]):
        start -= 1
    quoted = text[original_start] in "'\u2018\u2019"
    if end < original_end and text[end] in "'\u2019" and text[end - 1] in "sS" and not quoted:
        end += 1
    return start, end


def _is_spoken(character: str) -> bool:
    return character.isalnum() or character in "$£€%&+=@"


def _is_elision(word: str) -> bool:
    return word.lower().rstrip(".,!?;:") in (
        "tis",
        "twas",
        "twill",
        "em",
        "til",
        "cause",
        "bout",
        "round",
        "neath",
        "ere",
    )


def _speak(word: str, language: str) -> list[str]:
    spoken: list[str] = []
    position, english = 0, language == "en"
    while position < len(word):
        if english and (number := NUMBER.match(word, position)):
            spoken += say_number(number)
            position = number.end()
        elif ordinal := match_ordinal(word, position, language):
            spoken += say_ordinal_in(ordinal, language)
            position = ordinal.end()
        elif not english and (number := match_number(word, position, language)):
            spoken += say_number_in(number, language)
            position = number.end()
        elif initials := INITIALS.match(word, position):
            spoken += [_plain(letter, language) for letter in initials[0].split(".") if letter]
            position = initials.end()
        elif letters := LETTERS.match(word, position):
            spoken.append(_plain(letters[0], language))
            position = letters.end()
        elif english and word[position] in SYMBOLS:
            spoken.append(SYMBOLS[word[position]])
            position += 1
        else:
            run = DIGITS.match(word, position)
            if run or word[position].isalnum():  # a half, a square: no letters, no decimal digits, but said
                spoken.append(run[0] if run else word[position])
            position = run.end() if run else position + 1
    if spoken and word[0] in "'\u2019" and not spoken[0].startswith("'"):
        spoken[0] = "'" + spoken[0]
    return [part for part in spoken if part] or [_plain(word, language) or word]


def _plain(word: str, language: str) -> str:
    """Small letters, composed; nothing is folded that a model may have a letter for (\u00df, the final sigma, a vowel's mark)."""
    if language in ("tr", "az"):
        word = word.replace("I", "\u0131").replace("\u0130", "i")
    word = HIDDEN.sub("", word.replace("\u2019", "'").lower())
    composed = unicodedata.normalize("NFC", word)
    # Composing also sorts marks (those of Hebrew are not written in that order): where it does nothing else, leave them.
    return composed if len(composed) != len(word) or sorted(composed) != sorted(word) else str(word)
