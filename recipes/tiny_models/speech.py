"""Held-out speech with exact times, made on the spot: needs only flite, for its sentences are in this folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from recipes.tiny_models.settings import TRAIN_FLITE, UNSEEN_FLITE
from recipes.voices import flite
from recipes.voices.settings import root
from recipes.voices.store import VoicedSentence

MISSING = "flite is not installed (Debian package flite1-dev): there is no speech with exact times to measure on"

HELD_OUT = 60
"""Sentences of `held_out` per group: about 1000 word boundaries."""


@cache
def sentences() -> tuple[str, ...]:
    """100 sentences that no training text holds (the test split of `texts`)."""
    return tuple((Path(__file__).parent / "test_sentences.txt").read_text(encoding="utf-8").splitlines())


def spoken(voice: str, first: int, last: int) -> list[VoicedSentence]:
    """Sentences [first, last) by a flite voice, with exact times of words and phones."""
    made = [flite.synthesise(sentence, voice) for sentence in sentences()[first:last]]
    return [utterance for utterance in made if utterance is not None]


def held_out_kokoro(voice: str) -> Path:
    """Where `corpus held-out` puts the sentences of an unseen Kokoro voice."""
    return root() / "corpus" / "held-out" / f"{voice}.npz"


def accents(voice: str) -> Path:
    """Where `corpus accents` puts the sentences of a Kokoro voice of another language."""
    return root() / "corpus" / "accents" / f"{voice}.npz"


def held_out() -> dict[str, list[VoicedSentence]]:
    """`unseen`: the voice that no training heard; `seen`: the training voices with sentences that they never spoke.

    Raises:
        RuntimeError: flite is not installed.
    """
    if not flite.available():
        raise RuntimeError(MISSING)
    share = HELD_OUT // len(TRAIN_FLITE)
    seen = [
        utterance
        for number, voice in enumerate(TRAIN_FLITE)
        for utterance in spoken(voice, number * share, (number + 1) * share)
    ]
    return {"unseen": spoken(UNSEEN_FLITE, 0, HELD_OUT), "seen": seen}
