"""Letters of any script as a to z, for models that were trained on romanised text: torchaudio's MMS_FA.

uroman (Hermjakob, May, Knight 2018) is what MMS was trained with. It is an extra: its licence wants to be acknowledged by whoever
publishes a project that uses it.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

from pipeline.text.tokens import Token
from schemas.config import ConfigError
from schemas.spec import CtcSpec

ROMANISED = ("MMS_FA",)
"""Bundles of torchaudio whose letters are a to z and an apostrophe, whatever the language."""


def is_romanised(spec: CtcSpec) -> bool:
    """Whether the model of a spec wants romanised text."""
    return spec.format == "torchaudio" and spec.model in ROMANISED


def check_romaniser(model: str) -> None:
    """Raises ConfigError where uroman is not installed."""
    if importlib.util.find_spec("uroman") is None:
        raise ConfigError(
            f"words.model {model} aligns romanised text, and the package uroman, which romanises it, is not installed: "
            "`pip install uroman` (the extra `romanise`), or choose a model of the corpus's language"
        )


def romanised(token: Token) -> Token:
    """The token with what is said of it in a to z and apostrophes; parts of which nothing is left stay as they are."""
    return replace(token, spoken=tuple(_romanise(word) for word in token.spoken))


@lru_cache(maxsize=1 << 16)
def _romanise(word: str) -> str:
    if word.isascii():
        return word
    return re.sub(r"[^a-z']", "", _uroman().romanize_string(word).lower()) or word


@cache
def _uroman() -> Any:
    from uroman import Uroman

    return Uroman()
