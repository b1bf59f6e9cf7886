"""Models whose letters are a to z align any script once it is romanised, and refuse it in words where it is not."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from pipeline.align.base import AlignError
from pipeline.align.ctc import CtcAligner, align_emissions
from pipeline.align.ctc_model import Alphabet
from pipeline.text.romanise import romanised
from pipeline.text.tokens import tokenise
from schemas.config import ConfigError
from schemas.spec import CtcSpec

LATIN = Alphabet(labels=("-", *"aienuotsrmkldghybpwcvjzf'qx"), blank=0, delimiter=None)
TEXTS = {
    "ru": "\u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
    "zh": "\u4f60\u597d",
    "el": "\u03ba\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1",
    "hi": "\u0928\u092e\u0938\u094d\u0924\u0947",
}


def emissions(frames: int = 200) -> np.ndarray:
    chances = np.random.default_rng(0).dirichlet(np.ones(len(LATIN.labels)), frames)
    return np.asarray(np.log(chances), np.float32)


@pytest.mark.parametrize("language", TEXTS)
def test_another_script_is_refused_with_the_remedy(language: str) -> None:
    tokens = tokenise(TEXTS[language], language)
    with pytest.raises(AlignError, match=r"no letters for .* script"):
        align_emissions(emissions(), LATIN, 320, np.zeros(64_000, np.float32), tokens)


def test_accents_and_digits_are_no_other_script() -> None:
    for text, language in (("buenos d\u00edas", "es"), ("\u00fcber 12", "xx"), ("1984", "xx")):
        tokens = tokenise(text, language)
        assert align_emissions(emissions(), LATIN, 320, np.zeros(64_000, np.float32), tokens).timings


@pytest.mark.skipif(importlib.util.find_spec("uroman") is None, reason="needs the extra `romanise`")
@pytest.mark.parametrize("language", TEXTS)
def test_romanised_text_has_letters(language: str) -> None:
    tokens = [romanised(token) for token in tokenise(TEXTS[language], language)]
    assert all(word.isascii() and word.isalpha() for token in tokens for word in token.spoken)
    timings = align_emissions(emissions(), LATIN, 320, np.zeros(64_000, np.float32), tokens).timings
    assert {timing.timing for timing in timings if timing is not None} == {"aligned"}


def test_mms_is_not_offered_without_its_romaniser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.text.romanise.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="uroman"):
        CtcAligner(CtcSpec(format="torchaudio", model="MMS_FA")).open()
