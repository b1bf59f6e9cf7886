"""What turns audio into frames of features: one interface, whatever the model and the format it came in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from schemas.cards import Card
from schemas.spec import HubertSpec, MfccSpec


class Encoder(Protocol):
    """Features at a fixed hop. `card` is cheap and needs no `open`; `encode` needs it."""

    hop: int
    """Samples at 16 kHz per frame."""
    batch_size: int
    """Clips per step that pay on this device once it is open; 1: one by one."""

    def card(self) -> Card:
        """What determines the features.

        Raises:
            ConfigError: a file of the model is missing; the message says where to get it.
        """
        ...

    def open(self) -> None:
        """Load the model.

        Raises:
            ConfigError: the model cannot be used as the spec says.
        """
        ...

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """float32 [n] samples at 16 kHz -> float32 [n // hop, D]. What it returns depends on `audio` alone."""
        ...

    def encode_batch(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As `encode` of each, in one step: equal up to the rounding of a larger product."""
        ...

    def close(self) -> None:
        """Release the model."""
        ...


def build_encoder(spec: MfccSpec | HubertSpec) -> Encoder:
    """The encoder that a spec names, not yet opened."""
    if isinstance(spec, MfccSpec):
        from pipeline.encode.mfcc import MfccEncoder

        return MfccEncoder(spec)
    from pipeline.encode.hubert import HubertEncoder

    return HubertEncoder(spec)
