"""From a sound that somebody just made to units: the encoder and centroids of a pipeline spec, one clip at a time."""

from __future__ import annotations

import numpy as np

from pipeline.codebook.assign import Quantiser
from pipeline.codebook.folder import load_centroids
from pipeline.encode.base import build_encoder
from pipeline.source.decode import decode_file
from pipeline.units import tokenizer_card
from schemas.spec import PipelineSpec


class Ear:
    """Audio files as a browser records them, to units."""

    def __init__(self, spec: PipelineSpec) -> None:
        """
        Raises:
            ConfigError: the encoder or the centroids are missing.
        """
        centroids, card = load_centroids(spec.stages.units.centroids)
        self._encoder = build_encoder(spec.stages.units.encoder)
        self.tokenizer = tokenizer_card(self._encoder.card(), card).card_id
        """The card of the units it makes: those of the model must be of the same making."""
        self._quantiser = Quantiser(centroids)
        self._encoder.open()

    def hear(self, file: bytes, seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """The first `seconds` of an audio file: units uint16 [T] and its samples, float32 [T * hop] at 16 kHz.

        Raises:
            AudioError: the file is not audio that can be read.
        """
        audio, _ = decode_file(file, channel=-1)
        samples = audio[0][: round(seconds * 16_000)]
        features = self._encoder.encode(samples)
        return self._quantiser.assign(features), samples[: len(features) * self._encoder.hop]
