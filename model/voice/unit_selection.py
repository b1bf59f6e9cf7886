"""Speech from units without a trained vocoder: recorded pieces joined (unit selection), or the mean spectrum of each unit.

Unit selection (Hunt and Black 1996): among all recorded frames with the wanted unit, a Viterbi search takes the sequence that
agrees best with the neighbouring units and joins most smoothly; neighbours in a recording join for nothing, so long pieces are
kept. Pieces meet in a short cross-fade at the best-matching lag.

Shape suffixes: F recorded frames, T units to speak, C candidates of a unit, M mel bands, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from schemas.config import ConfigError

SAMPLE_RATE = 16_000
CONTEXT = 3
"""Neighbours on either side that a candidate should share with the wanted sequence."""
CANDIDATES = 48
"""Recorded frames tried for each unit: joins are weighed between all of two neighbours, so the work grows with the square."""
FADE = 160
"""Samples of a cross-fade: 10 ms."""
LAG = 96
"""A piece may move this many samples so that the waveforms meet in phase: half a period at 83 Hz."""
MISMATCH, JUMP = 1.0, 0.3
"""Costs of a neighbour that differs, and of any join beside its spectral distance (root mean square of z-scores, about 1)."""


def log_mel(audio_S: np.ndarray, hop: int, num_bands: int = 24, window: int = 400) -> np.ndarray:
    """Log mel energies around sample 0, hop, 2 hop, ...: float32 [S // hop + 1, M]."""
    spectrum = torch.stft(
        torch.from_numpy(np.ascontiguousarray(audio_S)), 512, hop, window, torch.hann_window(window),
        center=True, pad_mode="constant", return_complex=True,
    ).abs()  # fmt: skip
    energies = (spectrum.square().T @ _mel_filters(num_bands, 512)).clamp(min=1e-8)
    result: np.ndarray = energies.log().numpy()
    return result


def _mel_filters(num_bands: int, size: int) -> torch.Tensor:
    """Triangles [size / 2 + 1, M], equally spaced in mel (O'Shaughnessy) from 60 Hz to 7.6 kHz."""
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (60, 7600))
    mels = low + (high - low) * np.arange(num_bands + 2) / (num_bands + 1)
    edges = 700 * (10 ** (mels / 2595) - 1)
    frequency = np.arange(size // 2 + 1)[:, None] * SAMPLE_RATE / size
    rising = (frequency - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - frequency) / np.diff(edges)[1:]
    return torch.from_numpy(np.clip(np.minimum(rising, falling), 0, None).astype(np.float32))


class UnitSelection:
    """A `Synthesiser` that joins pieces of recordings."""

    sample_rate = SAMPLE_RATE

    def __init__(self, recordings: Sequence[tuple[np.ndarray, np.ndarray]], hop: int, num_units: int) -> None:
        """`recordings`: (units [F], audio [F * hop]) of each.

        Raises:
            ConfigError: there are none, or audio and units do not fit together.
        """
        if not recordings:
            raise ConfigError("there is no recorded speech to speak with")
        if wrong := [number for number, (units, audio) in enumerate(recordings) if len(audio) != len(units) * hop]:
            raise ConfigError(f"recording {wrong[0]} has not {hop} samples for each of its units")
        self.hop, self.num_units = hop, num_units
        gap = np.full(CONTEXT, num_units, dtype=np.int64)  # no unit: between recordings
        silence = np.zeros(CONTEXT * hop, dtype=np.float32)
        self.units_F = np.concatenate([part for units, _ in recordings for part in (gap, units, gap)]).astype(np.int64)
        self.audio_S = np.concatenate([part for _, audio in recordings for part in (silence, audio, silence)])
        mel = log_mel(self.audio_S, hop)[: len(self.units_F) + 1]
        self.edge_FM = (mel - mel.mean(0)) / (mel.std(0) + 1e-3)
        """Spectrum at the beginning of each frame; that of the next is the one at its end."""
        order = np.argsort(self.units_F, kind="stable")
        starts = np.searchsorted(self.units_F[order], np.arange(num_units + 1))
        self._frames = np.split(order, starts[1:])[:num_units]
        self._fallback = self._nearest_units()

    def __call__(self, units: np.ndarray) -> np.ndarray:
        """float32 [len(units) * hop].

        Raises:
            ConfigError: a unit beyond the vocabulary.
        """
        units_T = np.asarray(units, dtype=np.int64)
        if len(units_T) == 0:
            return np.zeros(0, dtype=np.float32)
        if not 0 <= units_T.min() <= units_T.max() < self.num_units:
            raise ConfigError(f"units outside [0, {self.num_units}) cannot be spoken")
        return self._join(self.select(self._fallback[units_T]))

    def select(self, units_T: np.ndarray) -> np.ndarray:
        """The recorded frame for each unit, int64 [T]."""
        padded = np.pad(units_T, CONTEXT, constant_values=self.num_units)
        cost_C = np.zeros(1)
        previous_C = np.full(1, -2, dtype=np.int64)
        choices: list[tuple[np.ndarray, np.ndarray]] = []
        for at in range(len(units_T)):
            frames_C, target_C = self._candidates(padded[at : at + 2 * CONTEXT + 1], previous_C)
            apart = self.edge_FM[previous_C + 1][:, None] - self.edge_FM[frames_C][None]
            join_CC = JUMP + np.sqrt(np.square(apart).mean(-1))
            join_CC[previous_C[:, None] + 1 == frames_C[None]] = 0
            total_CC = cost_C[:, None] + (join_CC if at else np.zeros_like(join_CC))
            best_C = total_CC.argmin(0)
            cost_C = total_CC[best_C, np.arange(len(frames_C))] + target_C
            choices.append((frames_C, best_C))
            previous_C = frames_C
        path, state = [], int(cost_C.argmin())
        for frames_C, best_C in reversed(choices):
            path.append(int(frames_C[state]))
            state = int(best_C[state])
        return np.asarray(path[::-1], dtype=np.int64)

    def _candidates(self, wanted: np.ndarray, previous_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames of a unit and what their neighbours cost: those with the best neighbours, and those that go on a piece."""
        frames = self._frames[int(wanted[CONTEXT])]
        offsets = np.arange(-CONTEXT, CONTEXT + 1)
        weight = 1 / np.maximum(np.abs(offsets), 1) / 2
        differs = self.units_F[frames[:, None] + offsets] != wanted
        cost = MISMATCH * (differs * weight).sum(1)
        if len(frames) > CANDIDATES:
            kept = np.argpartition(cost, CANDIDATES)[:CANDIDATES]
            kept = np.union1d(kept, np.flatnonzero(np.isin(frames, previous_C + 1)))
            frames, cost = frames[kept], cost[kept]
        return frames, cost

    def _join(self, frames_T: np.ndarray) -> np.ndarray:
        """The frames' audio, pieces overlapping by FADE around each join."""
        hop, half = self.hop, FADE // 2
        cuts = np.flatnonzero(np.diff(frames_T) != 1) + 1
        edges = [0, *cuts.tolist(), len(frames_T)]
        rise = (0.5 - 0.5 * np.cos(np.pi * (np.arange(FADE) + 0.5) / FADE)).astype(np.float32)
        source = np.pad(self.audio_S, FADE + LAG)
        out = np.zeros(len(frames_T) * hop + FADE, dtype=np.float32)
        tail = None
        for first, last in pairwise(edges):
            start = int(frames_T[first]) * hop + FADE + LAG - half
            size = (last - first) * hop + FADE
            if tail is not None:
                start += _best_lag(tail, source[start - LAG : start + FADE + LAG])
            piece = source[start : start + size].copy()
            tail = piece[-FADE:].copy()
            if first:
                piece[:FADE] *= rise
            if last < len(frames_T):
                piece[-FADE:] *= rise[::-1]
            out[first * hop : first * hop + size] += piece
        return out[half : half + len(frames_T) * hop]

    def _nearest_units(self) -> np.ndarray:
        """For each unit itself, or where it was never recorded the recorded one that is nearest in number."""
        recorded = np.flatnonzero([len(frames) > 0 for frames in self._frames])
        nearest = np.abs(np.arange(self.num_units)[:, None] - recorded).argmin(1)
        found: np.ndarray = recorded[nearest]
        return found


def _best_lag(tail: np.ndarray, around: np.ndarray) -> int:
    """Where in `around` (FADE + 2 LAG samples) the waveform is most like `tail`, as an offset from its middle."""
    windows = np.lib.stride_tricks.sliding_window_view(around, len(tail))
    match = windows @ tail / (np.linalg.norm(windows, axis=1) + 1e-3)
    return int(match.argmax()) - LAG
