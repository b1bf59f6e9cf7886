"""Backend `soundswallower`: forced alignment with a small English GMM that ships in a wheel. No network, no GPU."""

from __future__ import annotations

import importlib.util
import math
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.align.base import AlignError, Alignment, WordTiming
from pipeline.text.pronounce import pronounce
from pipeline.text.tokens import Token
from schemas.cards import Card, hash_directory
from schemas.config import ConfigError

FRAME = 160
"""Samples per frame of the acoustic model (100 Hz)."""
LOG_UNIT = math.log(1.0001) * 1024
"""Nats per unit of an alignment's score: the decoder's log base, shifted by 10 bits."""
FILES = (
    "dict.txt",
    "feat_params.json",
    "mdef",
    "means",
    "noisedict.txt",
    "sendump",
    "transition_matrices",
    "variances",
)
VARIANT = re.compile(r"\(\d+\)$")


class SoundSwallowerAligner:
    """Aligns word by word through a pronunciation dictionary (CMUdict) with optional pauses between words.

    A word that the dictionary lacks is given a pronunciation by spelling rules, and its timing the flag "star".
    """

    def __init__(self) -> None:
        self._decoder: Any = None
        self._guessed: set[str] = set()

    def card(self) -> Card:
        """The hashes of the packaged English model."""
        facts = {**_hashes(), "pronounce": 1}
        return Card(kind="aligner", name="soundswallower-en-us", facts=facts, notes={"license": "BSD and MIT"})

    def open(self) -> None:
        """Load the model and the dictionary (0.2 s)."""
        from soundswallower import Decoder

        folder = _model_folder()
        self._decoder = Decoder(hmm=str(folder), dict=str(folder / "dict.txt"), loglevel="FATAL")
        self._guessed.clear()

    def close(self) -> None:
        """Release the model."""
        self._decoder = None

    def align(self, audio: np.ndarray, tokens: Sequence[Token], language: str) -> Alignment:
        """See WordAligner. None for tokens without a Latin letter.

        Raises:
            AlignError: the language is not English, or the decoder finds no path through all words.
        """
        if language != "en":
            raise AlignError(
                f"soundswallower has an English model only and the language is {language!r}: use a CTC aligner"
            )
        spoken = [[form for word in token.spoken if (form := self._dictionary_form(word))] for token in tokens]
        words = [word for forms in spoken for word in forms]
        if not words:
            raise AlignError("not one word of the transcript has a pronunciation")
        found = iter(self._decode(audio, words))
        timings: list[WordTiming | None] = []
        for token, forms in zip(tokens, spoken, strict=True):
            entries = [next(found) for _ in forms]
            guessed = len(forms) < len(token.spoken) or any(form in self._guessed for form in forms)
            timings.append(_timing(entries, guessed) if entries else None)
        return Alignment(timings=timings)

    def _dictionary_form(self, word: str) -> str | None:
        """The name under which the decoder knows a word, which it is taught if need be; None if that is impossible."""
        accentless = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
        # From the closest spelling to the farthest: some words of the dictionary are told apart by an apostrophe alone.
        for form in (word, accentless, accentless.strip("'"), accentless.replace("'", "")):
            if form and self._known(form):
                return form
        phones = pronounce(accentless, self._known, self._decoder.lookup_word)
        if phones is None:
            return None
        self._decoder.add_word(accentless, phones, update=True)
        self._guessed.add(accentless)
        return accentless

    def _known(self, word: str) -> bool:
        return self._decoder.lookup_word(word) is not None

    def _decode(self, audio: np.ndarray, words: Sequence[str]) -> list[tuple[int, int, int]]:
        """(start frame, frames, score) of every word."""
        # int16 has no +1.0: it would wrap round to -1.0, a click
        pcm = (np.clip(audio, -1.0, 32767 / 32768) * 32768).astype(np.int16)
        try:
            self._decoder.set_align_text(" ".join(words))
            self._decoder.start_utt()
            self._decoder.process_raw(pcm.tobytes(), no_search=False, full_utt=True)
            self._decoder.end_utt()
            alignment = self._decoder.alignment
        except RuntimeError as error:
            raise AlignError(
                "the audio and the text do not fit together: no path through all words was found"
            ) from error
        entries = [(VARIANT.sub("", item.name), item) for item in alignment or ()]
        heard = [(name, item) for name, item in entries if name[0] not in "<["]  # pauses and noises: <sil>, [NOISE]
        if [name for name, _ in heard] != list(words):
            raise AlignError("the audio and the text do not fit together: the path ended before the last word")
        return [(item.start, item.duration, item.score) for _, item in heard]


def _timing(entries: Sequence[tuple[int, int, int]], guessed: bool) -> WordTiming:
    first, last = entries[0], entries[-1]
    frames = sum(duration for _, duration, _ in entries)
    score = sum(score for _, _, score in entries)
    return WordTiming(
        start=first[0] * FRAME,
        end=(last[0] + last[1]) * FRAME,
        score=min(1.0, math.exp(score * LOG_UNIT / frames)),
        timing="star" if guessed else "aligned",
    )


def _model_folder() -> Path:
    found = importlib.util.find_spec("soundswallower")
    if found is None or found.origin is None:
        raise ConfigError("the package soundswallower is not installed: run `make setup`")
    return Path(found.origin).parent / "model" / "en-us"


@lru_cache(maxsize=1)
def _hashes() -> dict[str, str]:
    return hash_directory(_model_folder(), FILES)
