"""HuBERT features of a layer: exact frames for every length, windows with context for long audio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.encode.hubert_weights import FIELD_OF_SPEC, HubertFacts, hubert_facts, load_hubert
from pipeline.networks.model_files import torch_device
from pipeline.networks.resolver import Wanted, licence_notes
from pipeline.networks.windowed import Windowing, normalised, run_windowed
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
        self._model = load_hubert(self.spec, self.spec.layer).to(self._device)
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
        """Features of each clip, float32 [n // hop, D], in one step where they fit into a window.

        Shorter clips are padded. Padding reaches no frame of theirs: convolutions see no further than the margin, attention is
        masked, and a group norm over time gets the statistics of each clip alone.
        """
        assert self._facts is not None, "open() comes before encode_batch()"
        from pipeline.networks.group_norm import whole_audio_norm  # torch, which planning does without

        grid = self._facts.grid
        longest = round((self.spec.window_seconds + 2 * self.spec.context_seconds) * SAMPLE_RATE)
        together = [place for place, clip in enumerate(clips) if self.hop <= len(clip) <= longest]
        if len(together) < 2:
            return [self.encode(clip) for clip in clips]
        waves = [
            np.pad(normalised(clips[place], LAYER_NORM_EPSILON) if self._facts.normalise else clips[place], grid.margin)
            for place in together
        ]
        results = {place: self.encode(clip) for place, clip in enumerate(clips) if place not in set(together)}
        with whole_audio_norm(self._model.feature_extractor.conv_layers[0], *waves):
            features = self._forward_padded(waves)
        results |= {place: row[: len(clips[place]) // self.hop] for place, row in zip(together, features, strict=True)}
        return [results[place] for place in range(len(clips))]

    def _forward_padded(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        longest = max(map(len, waves))
        batch = np.stack([np.pad(wave, (0, longest - len(wave))) for wave in waves]).astype(np.float32, copy=False)
        mask = np.arange(longest) < np.array([len(wave) for wave in waves])[:, None]
        with torch.inference_mode():
            output = self._model(
                torch.from_numpy(batch).to(self._device),
                attention_mask=torch.from_numpy(mask.astype(np.int64)).to(self._device),
            )
            features: np.ndarray = output.last_hidden_state.float().cpu().numpy()
        return features

    def _forward(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(waves).astype(np.float32, copy=False)).to(self._device)
            output: np.ndarray = self._model(batch).last_hidden_state.float().cpu().numpy()
        return output
