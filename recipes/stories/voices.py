"""Sentences to audio: flite and eSpeak NG voices by name. Equal text and voice give equal bytes in a fresh process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.config import ConfigError

SAMPLE_RATE = 16_000
PAUSE = 0.35
"""Seconds of silence between sentences."""
NAMES = {
    "flite": ("slt", "awb", "kal16", "rms"),
    "espeak": (
        "en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc",
        "en-us+f1", "en-us+f4", "en-us+m1", "en-us+m3", "en-us+klatt4",
    ),
}  # fmt: skip
"""Engine -> voices that gave the same bytes in five fresh processes. Others of eSpeak NG (+f2, +f3, +f5) did not."""
VOICE = re.compile(r"(?P<engine>[a-z]+)-(?P<name>[A-Za-z0-9+-]+)(@(?P<factor>\d(\.\d+)?))?")


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A synthesiser's voice, and how many times slower and lower it is made."""

    engine: str
    name: str
    factor: float


def parse_voice(text: str) -> Voice:
    """The voice that a name such as "flite-slt" or "espeak-en-us+f1@1.1" stands for.

    Raises:
        ConfigError: the name is of no engine known here.
    """
    match = VOICE.fullmatch(text)
    if match is None or match["name"] not in NAMES.get(match["engine"], ()):
        known = ", ".join(f"{engine}-{name}" for engine, names in NAMES.items() for name in names)
        raise ConfigError(f"{text!r} is no voice: {known}; @FACTOR may follow")
    factor = float(match["factor"] or 1)
    if not 0.7 <= factor <= 1.4:
        raise ConfigError(f"{text!r}: a voice may be made 0.7 to 1.4 times slower")
    return Voice(engine=match["engine"], name=match["name"], factor=factor)


def check_voices(voices: Sequence[str]) -> None:
    """Make sure that the engines are there; eSpeak NG is fetched where it is missing.

    Raises:
        ConfigError: an engine is missing; the message says what to do.
    """
    engines = {parse_voice(voice).engine for voice in voices}
    if "flite" in engines:
        from recipes.voices import flite

        if not flite.available():
            raise ConfigError(
                "flite voices need the libraries of the Debian package flite1-dev, which are not installed: install it, or "
                "name eSpeak NG voices (espeak-en-us, ...), which come from a Python wheel"
            )
    if "espeak" in engines:
        from pipeline.networks.registry import FetchError
        from recipes.voices import fetch

        try:
            fetch.espeak()
        except FetchError as error:
            raise ConfigError(
                f"{error}; eSpeak NG voices need this wheel, flite voices the package flite1-dev"
            ) from error


def speak(sentences: Sequence[str], voice: str) -> np.ndarray:
    """int16 [samples] at 16 kHz: the sentences with pauses between them.

    Both engines keep state, so the bytes depend on what was spoken before in this process (see parts.py).
    """
    parsed = parse_voice(voice)
    pieces: list[np.ndarray] = []
    for sentence in sentences:
        if pieces:
            pieces.append(np.zeros(round(PAUSE * SAMPLE_RATE), np.int16))
        pieces.append(_sentence(sentence, parsed))
    audio = np.concatenate(pieces)
    if parsed.factor != 1:
        import soxr

        audio = soxr.resample(audio, SAMPLE_RATE, SAMPLE_RATE * parsed.factor, quality="MQ")
    return audio


def _sentence(sentence: str, voice: Voice) -> np.ndarray:
    if voice.engine == "flite":
        from recipes.voices import flite

        return flite.speak(sentence, voice.name)
    from recipes.voices import espeak

    return espeak.speak(sentence, voice.name)
