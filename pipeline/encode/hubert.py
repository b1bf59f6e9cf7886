"""HuBERT features of a layer: exact frames for every length, windows with context for long audio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.encode.hubert_weights import FIELD_OF_SPEC, HubertFacts, hubert_facts, load_hubert
from pipeline.networks.exact_convolutions import exact_convolutions
from pipeline.networks.model_files import torch_device, torch_dtype
from pipeline.networks.padded import run_padded
from pipeline.networks.resolver import Wanted, licence_notes
from pipeline.networks.windowed import Windowing, run_windowed
from schemas.audio import SAMPLE_RATE
from schemas.cards import Card
from schemas.config import ConfigError
from schemas.spec import HubertSpec

LAYER_NORM_EPSILON = 1e-5
"""Of the normalisation over the whole audio, as fairseq's layer norm has it."""


class HubertEncoder:
    """The output of transformer layer `layer` (1 = the first; 0 = what enters it), as fairseq's `output_layer` counts.

    The audio is padded by 40 zeros on each side (for the usual convolutions), so that n samples give n // hop frames and
    frame t is centred on its own hop. Audio longer than window + 2 context goes through in windows of equal length.
    Models whose first convolution is normalised over time (group norm: the base models) get that norm's statistics from the
    whole audio, so that windows see exactly the features that the whole would; only attention ends at the window's edge.
    """

    def __init__(self, spec: HubertSpec):
        self.spec = spec
        self.hop: int = spec.hop
        self._facts: HubertFacts | None = None
        self._model: Any = None
        self._device = "cpu"
        self._dtype: Any = None
        self.batch_size = 1

    def card(self) -> Card:
        """File hashes, layer, hop and windows. Hashing the weights is all it costs.

        Raises:
            ConfigError: the model is missing, its hop is not the spec's, or it has no such layer.
        """
        facts = hubert_facts(self.spec)
        if facts.grid.hop != self.hop:
            raise ConfigError(
                f"{self.spec.model} makes a frame every {facts.grid.hop} samples, but the spec says hop: {self.hop}: "
                f"write hop: {facts.grid.hop}, or name the model that was meant"
            )
        if self.spec.layer > facts.num_layers:
            raise ConfigError(
                f"{self.spec.model} has {facts.num_layers} layers, but the spec says layer: {self.spec.layer}"
            )
        wanted = Wanted(field=FIELD_OF_SPEC, form=self.spec.format, name=self.spec.model)
        return Card(
            kind="encoder",
            name=f"{Path(self.spec.model.partition('@')[0]).stem.lower()}-l{self.spec.layer}",
            facts={
                "files": facts.files,
                "layer": self.spec.layer,
                "hop": self.hop,
                "normalise": facts.normalise,
                "window_seconds": self.spec.window_seconds,
                "context_seconds": self.spec.context_seconds,
            },
            notes={"format": self.spec.format, "dim": facts.dim, **licence_notes(wanted)},
        )

    def open(self) -> None:
        """Load the weights and drop the layers above the wanted one.

        Raises:
            ConfigError: what `card` raises, or the weights do not fit the configuration.
        """
        self.card()
        self._facts = hubert_facts(self.spec)
        self._device = torch_device(self.spec.device)
        self._dtype = torch_dtype(self.spec.dtype)
        self._model = load_hubert(self.spec, self.spec.layer).to(self._device, self._dtype)
        # On a CPU a batch is slower than its members one by one.
        self.batch_size = self.spec.batch_size if self._device == "cuda" else 1

    def close(self) -> None:
        """Release the model."""
        self._model = None

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Features of float32 [n] samples at 16 kHz: float32 [n // hop, D]."""
        assert self._facts is not None, "open() comes before encode()"
        return run_windowed(
            audio,
            grid=self._facts.grid,
            width=self._facts.dim,
            windowing=Windowing.of(
                self.spec.window_seconds,
                self.spec.context_seconds,
                self.hop,
                self.batch_size,
            ),
            forward=self._forward,
            first_convolution=self._model.feature_extractor.conv_layers[0],
            normalise=LAYER_NORM_EPSILON if self._facts.normalise else None,
        )

    def encode_batch(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Features of each clip, float32 [n // hop, D], in one step where they fit into a window."""
        assert self._facts is not None, "open() comes before encode_batch()"
        return run_padded(
            clips,
            grid=self._facts.grid,
            longest=round((self.spec.window_seconds + 2 * self.spec.context_seconds) * SAMPLE_RATE),
            forward=self._forward_padded,
            alone=self.encode,
            first_convolution=self._model.feature_extractor.conv_layers[0],
            normalise=LAYER_NORM_EPSILON if self._facts.normalise else None,
        )

    def _forward_padded(self, batch: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        import torch

        mask = torch.from_numpy((np.arange(batch.shape[1]) < lengths[:, None]).astype(np.int64))
        with torch.inference_mode(), exact_convolutions(self._model, self._device, self._dtype):
            waves = torch.from_numpy(batch).to(self._device, self._dtype)
            output = self._model(waves, attention_mask=mask.to(self._device))
            features: np.ndarray = output.last_hidden_state.float().cpu().numpy()
        return features

    def _forward(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        with torch.inference_mode(), exact_convolutions(self._model, self._device, self._dtype):
            batch = torch.from_numpy(np.stack(waves).astype(np.float32, copy=False)).to(self._device, self._dtype)
            output: np.ndarray = self._model(batch).last_hidden_state.float().cpu().numpy()
        return output
