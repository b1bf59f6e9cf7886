"""Transcripts as aligners need them: tokens with their place in the text, and the words a speaker says for each."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

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
SCRIPT_WITHOUT_SPACES = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
"""Kana and Han: a character is a token of its own, for no space says where a word ends."""

# A run without white space and dashes between words; a hyphen inside a word ("well-known") does not end it.
CHUNK = re.compile(rf"{SCRIPT_WITHOUT_SPACES}|(?:(?!--|{SCRIPT_WITHOUT_SPACES})[^\s—\u2013…])+")
LETTERS = re.compile(r"[^\W\d_][^\W\d_\u0300-\u036f]*(?:[\u0300-\u036f]+[^\W\d_]*)*(?:['\u2019][^\W\d_]+)*['\u2019]?")
INITIALS = re.compile(r"(?:[^\W\d_]\.){2,}")
LEADING_APOSTROPHE = re.compile(r"['\u2019](?=[^\W\d_])")


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

    Every letter and digit of `text` is in exactly one token. Digits and symbols are spoken out in English ("en") alone.
    """
    tokens = []
    for chunk in CHUNK.finditer(text):
        start, end = _trim(text, chunk.start(), chunk.end())
        if start < end:
            spoken = _speak(text[start:end], english=language == "en")
            tokens.append(Token(text=text[start:end], char_start=start, char_end=end, spoken=tuple(spoken)))
    return tokens


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """[start, end) without outer punctuation; what is spoken ($, %, &) and an elision's apostrophe stay."""
    original_start, original_end = start, end
    while start < end and not _is_spoken(text[start]):
        start += 1
    while end > start and not _is_spoken(text[end - 1]):
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
    return character.isalnum() or character in "$£€%&+=@" or unicodedata.category(character) == "Mn"


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


def _speak(word: str, *, english: bool) -> list[str]:
    spoken: list[str] = []
    position = 0
    while position < len(word):
        if english and (number := NUMBER.match(word, position)):
            spoken += say_number(number)
            position = number.end()
        elif initials := INITIALS.match(word, position):
            spoken += [letter.lower() for letter in initials[0] if letter != "."]
            position = initials.end()
        elif letters := LETTERS.match(word, position):
            spoken.append(_plain(letters[0]))
            position = letters.end()
        elif english and word[position] in SYMBOLS:
            spoken.append(SYMBOLS[word[position]])
            position += 1
        else:
            run = re.compile(r"\d+").match(word, position)
            if run:
                spoken.append(run[0])
            position = run.end() if run else position + 1
    if spoken and word[0] in "'\u2019" and not spoken[0].startswith("'"):
        spoken[0] = "'" + spoken[0]
    return spoken or [_plain(word)]


def _plain(word: str) -> str:
    return unicodedata.normalize("NFC", word).replace("\u2019", "'").casefold()
