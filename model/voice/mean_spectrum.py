"""The mean spectrum of each unit, as a voice: what is left of speech when only units are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from model.voice.unit_selection import SAMPLE_RATE
from schemas.config import ConfigError


class MeanSpectrum:
    """A `Synthesiser` that gives each unit the mean log spectrum of its frames, with phases by Griffin and Lim (1984)."""

    sample_rate = SAMPLE_RATE
    parts, size, rounds = 4, 512, 60

    def __init__(self, recordings: Sequence[tuple[np.ndarray, np.ndarray]], hop: int, num_units: int) -> None:
        """`recordings`: (units [F], audio [F * hop]) of each.

        Raises:
            ConfigError: units are of a length that the windows do not divide, or leave gaps in.
        """
        self.hop, step = hop, hop // self.parts
        if step * self.parts != hop or step >= self.size:
            raise ConfigError(
                f"mean spectra are of units of {self.parts} equal parts of less than {self.size} samples, and these have {hop}",
                "speak with joined recordings instead (without --mean-spectrum; evaluation.voice.mean_spectrum: false)",
            )
        sums = torch.zeros(num_units, self.parts, self.size // 2 + 1)
        counts = torch.zeros(num_units)
        for units, audio in recordings:
            spectrum = self._stft(torch.from_numpy(np.ascontiguousarray(audio)), step).abs().clamp(min=1e-4).log()
            index = torch.from_numpy(np.asarray(units, dtype=np.int64))
            frames = spectrum.T[: len(units) * self.parts].reshape(len(units), self.parts, -1)
            sums.index_add_(0, index, frames)
            counts.index_add_(0, index, torch.ones(len(units)))
        self.mean = sums / counts.clamp(min=1)[:, None, None]
        self.mean[counts == 0] = float(np.log(1e-4))

    def _stft(self, audio: torch.Tensor, step: int) -> torch.Tensor:
        window = torch.hann_window(self.size)
        return torch.stft(audio, self.size, step, window=window, pad_mode="constant", return_complex=True)

    def __call__(self, units: np.ndarray) -> np.ndarray:
        """float32 [len(units) * hop]."""
        length, step = len(units) * self.hop, self.hop // self.parts
        if length == 0:
            return np.zeros(0, dtype=np.float32)
        frames = self.mean[torch.from_numpy(np.asarray(units, dtype=np.int64))].flatten(0, 1).T
        magnitude = torch.nn.functional.pad(frames, (0, 1), mode="replicate").exp()
        phase = torch.exp(2j * torch.pi * torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(0)))
        window = torch.hann_window(self.size)
        for _ in range(self.rounds):
            audio = torch.istft(magnitude * phase, self.size, step, window=window, length=length)
            again = self._stft(audio, step)
            phase = again / again.abs().clamp(min=1e-8)
        result: np.ndarray = torch.istft(magnitude * phase, self.size, step, window=window, length=length).numpy()
        return result
