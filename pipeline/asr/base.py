"""What every recogniser offers: a text for a segment, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.source.base import AudioReader
from schemas.cards import Card
from schemas.tables import Recording, RejectCode, Segment


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a recogniser makes of a segment."""

    text: str
    language: str
    language_prob: float | None = None
    avg_logprob: float | None = None


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """Why a segment has no usable text: a reject code and a sentence."""

    code: RejectCode
    detail: str


class Recogniser(Protocol):
    """A source of text: opened once per worker, then the segments of one partition at a time."""

    def card(self) -> Card:
        """What it is; cheap, nothing is loaded.

        Raises:
            ConfigError: its model is missing; the message says where to get it.
        """
        ...

    def open(self) -> None:
        """Load the model."""
        ...

    def transcribe(self, cuts: Sequence[tuple[Recording, Segment]], audio: AudioReader) -> Sequence[Heard | Unusable]:
        """One result per segment, each independent of the other segments. Segments of a recording follow each other."""
        ...

    def close(self) -> None:
        """Release the model."""
        ...
