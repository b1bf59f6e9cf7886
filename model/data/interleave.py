"""Where an utterance is text and where it is speech: the span rules of LST (paper A.1.1) and of SpiRit-LM."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from schemas.config import StrictModel

WordRange = tuple[int, int]


class ModalitySpan(NamedTuple):
    """Words [first, last) in one modality."""

    is_text: bool
    first: int
    last: int


class _Rule(StrictModel):
    start_text_probability: float = Field(0.5, ge=0, le=1)
    """How often an utterance begins as text."""
    min_last_words: int = Field(3, ge=1)
    """A last span of fewer words joins the span before it."""

    @model_validator(mode="after")
    def _check_ranges(self) -> _Rule:
        for name, value in self:
            if isinstance(value, tuple) and not 1 <= value[0] <= value[1]:
                raise ValueError(f"{name} must be [low, high] with 1 <= low <= high, found {list(value)}")
        return self


class PaperRule(_Rule):
    """LST: a text span, then speech for about half as many words, and so on to the end of the utterance."""

    rule: Literal["paper"] = "paper"
    """The paper's (A.1.1)."""
    text_words: WordRange = (5, 30)
    """Uniform, both ends included."""
    text_share_cap: float = Field(0.6, gt=0, le=1)
    """A text span has at most this share of the utterance's words (but two at least)."""
    speech_ratio: float = Field(0.5, gt=0)
    """Words of a speech span, as a share of the text span before it."""
    min_speech_words: int = Field(2, ge=1)
    """A speech span has at least this many words."""
    first_speech_words: WordRange = (2, 15)
    """Uniform, where the utterance begins with speech."""

    def text_length(self, num_words: int, rng: np.random.Generator) -> int:
        """Words of a text span in an utterance of `num_words`."""
        high = min(self.text_words[1], max(2, int(self.text_share_cap * num_words)))
        return int(rng.integers(min(self.text_words[0], high), high, endpoint=True))

    def speech_length(self, previous_text: int | None, rng: np.random.Generator) -> int:
        """Words of a speech span; `previous_text` is the length of the text span before it, None at the start."""
        if previous_text is None:
            return int(rng.integers(*self.first_speech_words, endpoint=True))
        return max(self.min_speech_words, int(self.speech_ratio * previous_text))


class SpiritLMRule(_Rule):
    """SpiRit-LM: both kinds of span are uniform and independent."""

    rule: Literal["spirit_lm"] = "spirit_lm"
    """SpiRit-LM's."""
    text_words: WordRange = (10, 30)
    """Of a text span; uniform, both ends included."""
    speech_words: WordRange = (5, 15)
    """Of a speech span; uniform, both ends included."""

    def text_length(self, num_words: int, rng: np.random.Generator) -> int:
        """Words of a text span."""
        return int(rng.integers(*self.text_words, endpoint=True))

    def speech_length(self, previous_text: int | None, rng: np.random.Generator) -> int:
        """Words of a speech span."""
        return int(rng.integers(*self.speech_words, endpoint=True))


InterleaveRule = Annotated[PaperRule | SpiritLMRule, Field(discriminator="rule")]


def draw_spans(rule: PaperRule | SpiritLMRule, num_words: int, rng: np.random.Generator) -> list[ModalitySpan]:
    """Spans of alternating modality that tile [0, num_words)."""
    spans: list[ModalitySpan] = []
    is_text = bool(rng.random() < rule.start_text_probability)
    first = 0
    while first < num_words:
        if is_text:
            length = rule.text_length(num_words, rng)
        else:
            length = rule.speech_length(spans[-1].last - spans[-1].first if spans else None, rng)
        last = min(first + length, num_words)
        if spans and last == num_words and last - first < rule.min_last_words:
            spans[-1] = spans[-1]._replace(last=num_words)
        else:
            spans.append(ModalitySpan(is_text, first, last))
        first, is_text = last, not is_text
    return spans
