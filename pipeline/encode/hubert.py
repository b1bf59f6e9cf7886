"""HuBERT features of a layer: exact frames for every length, windows with context for long audio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.encode.hubert_weights import HubertFacts, hubert_facts, load_hubert
from pipeline.networks.model_files import torch_device
from pipeline.networks.windows import Window, plan_windows
from schemas.audio import SAMPLE_RATE
from schemas.cards import Card
from schemas.config import ConfigError
from schemas.spec import HubertSpec


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
            notes={"format": self.spec.format, "dim": facts.dim},
        )

    def open(self) -> None:
        """Load the weights and drop the layers above the wanted one.

        Raises:
            ConfigError: what `card` raises, or the weights do not fit the configuration.
        """
        self.card()
        self._facts = hubert_facts(self.spec)
        self._device = torch_device(self.spec.device)
        self._model = load_hubert(self.spec, self.spec.layer).to(self._device)

    def close(self) -> None:
        """Release the model."""
        self._model = None

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Features of float32 [n] samples at 16 kHz: float32 [n // hop, D]."""
        assert self._facts is not None, "open() comes before encode()"
        grid = self._facts.grid
        num_frames = len(audio) // self.hop
        features = np.empty((num_frames, self._facts.dim), np.float32)
        core, context = self._frames(self.spec.window_seconds), self._frames(self.spec.context_seconds)
        windows = plan_windows(num_frames, core, context)
        if not windows:
            return features
        padded = np.pad(_normalised(audio) if self._facts.normalise else audio, grid.margin)
        if len(windows) == 1:
            features[:] = self._forward(padded[None])[0]
            return features
        from pipeline.networks.group_norm import whole_audio_norm

        with whole_audio_norm(self._model.feature_extractor.conv_layers[0], padded):
            # On a CPU a batch is slower than its windows one by one; either way it holds windows of this audio alone.
            batch_size = self.spec.batch_size if self._device == "cuda" else 1
            for first in range(0, len(windows), batch_size):
                batch = windows[first : first + batch_size]
                spans = [grid.samples(window) for window in batch]
                outputs = self._forward(np.stack([padded[start:stop] for start, stop in spans]))
                for window, output in zip(batch, outputs, strict=True):
                    features[window.keep_start : window.keep_stop] = _kept(output, window)
        return features

    def _frames(self, seconds: float) -> int:
        return max(round(seconds * SAMPLE_RATE / self.hop), 1 if seconds else 0)

    def _forward(self, batch: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            waves = torch.from_numpy(np.ascontiguousarray(batch, np.float32)).to(self._device)
            output: np.ndarray = self._model(waves).last_hidden_state.float().cpu().numpy()
        return output


def _kept(output: np.ndarray, window: Window) -> np.ndarray:
    assert len(output) == window.stop - window.start, "the grid says how many frames a window gives"
    return output[window.keep_start - window.start : window.keep_stop - window.start]


def _normalised(audio: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the whole audio, as models with layer-normed convolutions were trained."""
    mean, variance = audio.mean(dtype=np.float64), audio.var(dtype=np.float64)
    return ((audio - np.float32(mean)) / np.float32(np.sqrt(variance + 1e-5))).astype(np.float32)
