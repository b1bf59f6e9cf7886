"""What every word aligner offers: times for the words of a transcript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from pipeline.text.tokens import Token
from schemas.cards import Card


@dataclass(frozen=True, kw_only=True)
class WordTiming:
    """When a token is said: [start, end) in 16 kHz samples from the segment's start."""

    start: int
    end: int
    score: float
    """In [0, 1]; larger is better. Comparable between words of one aligner only."""
    timing: Literal["aligned", "star", "interpolated", "doubtful"]
    """aligned: heard. star: heard, its sounds or letters guessed. interpolated: put between neighbours, not heard.
    doubtful: placed, but its sounds are others, or far too long for its letters, or mostly quiet."""
    char_times: tuple[int, ...] = ()
    """The start of each character of the token's text, or nothing."""
    told: float | None = None
    """What a second witness says of the word: how probable it finds it, in nats; None where none was asked."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """What an aligner makes of a segment."""

    timings: Sequence[WordTiming | None]
    """One per token, ordered and without overlap; None where the aligner has no way to hear the token."""
    uncovered: Sequence[tuple[int, int]] | None = None
    """Speech between the words that none of them covers, [start, end) in samples; None where the aligner does not say."""
    fit: float | None = None
    """How well the letters of the whole text are heard, in [0, 1]; None where the aligner does not say."""
    sound: Any = None
    """What the aligner's `ask` needs, in its own form; None where there is nothing to ask."""


class AlignError(Exception):
    """The audio and the text could not be brought together; the message is a sentence for the reject."""


class WordAligner(Protocol):
    """A forced aligner: opened once per worker, then one segment at a time."""

    def card(self) -> Card:
        """What the aligner is; cheap, nothing is loaded.

        Raises:
            ConfigError: its model is missing.
        """
        ...

    def open(self) -> None:
        """Load the model."""
        ...

    def align(self, audio: np.ndarray, tokens: Sequence[Token], language: str) -> Alignment:
        """The tokens in float32 [num_samples] at 16 kHz. Those without a timing are interpolated by the stage; `tokens` is
        never empty.

        Raises:
            AlignError: the whole segment cannot be aligned.
        """
        ...

    def close(self) -> None:
        """Release the model."""
        ...


@runtime_checkable
class BatchAligner(Protocol):
    """An aligner whose network takes several clips at a time; the rest is done for each by itself."""

    batch_size: int
    """Clips per step that pay on this device once it is open; 1: one by one."""

    def hear(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the network makes of each clip, in one step: equal to one by one up to the rounding of a larger product."""
        ...

    def align_heard(self, emissions: np.ndarray, audio: np.ndarray, tokens: Sequence[Token]) -> Alignment:
        """`WordAligner.align` from there on."""
        ...


@runtime_checkable
class SecondWitness(Protocol):
    """An aligner that asks another model about the words that it has placed, several segments at a time."""

    def ask(self, segments: Sequence[tuple[Sequence[Token], Alignment]]) -> list[Alignment | AlignError]:
        """The alignments, each with what the other model says of its words in their `told`; an error in place of one whose
        text and audio do not belong together by both."""
        ...
