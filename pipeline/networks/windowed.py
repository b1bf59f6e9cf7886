"""Audio of any length through a network of bounded length, frame for frame as if it went through whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.networks.windows import ConvGrid, Window, plan_windows
from schemas.audio import SAMPLE_RATE

Forward = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Waves of one length (float32 [samples] each) to their frames: float32 [waves, frames, width]."""


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """How long audio is cut up: frames of a window's core, of its context on either side, and windows per step."""

    core: int
    context: int
    batch_size: int

    @classmethod
    def of(cls, window_seconds: float, context_seconds: float, hop: int, batch_size: int) -> Windowing:
        """From seconds; what is not nothing is a frame at least."""
        core, context = (
            max(round(seconds * SAMPLE_RATE / hop), 1 if seconds else 0)
            for seconds in (window_seconds, context_seconds)
        )
        return cls(core=core, context=context, batch_size=batch_size)


def run_windowed(
    audio: np.ndarray,
    *,
    grid: ConvGrid,
    width: int,
    windowing: Windowing,
    forward: Forward,
    first_convolution: Any,
    normalise: float | None,
) -> np.ndarray:
    """The frames of float32 [n] samples at 16 kHz: float32 [n // hop, width].

    What fits into a window with its context goes through at once. Longer audio goes in windows, of which the cores are kept; a
    group norm over time after `first_convolution` then uses the statistics of the whole audio. `normalise`: zero mean and unit
    variance over the whole audio, as models with layer-normed convolutions were trained, with this epsilon; None: as it is.
    """
    num_frames = len(audio) // grid.hop
    frames = np.empty((num_frames, width), np.float32)
    windows = plan_windows(num_frames, windowing.core, windowing.context)
    if not windows:
        return frames
    padded = np.pad(audio if normalise is None else normalised(audio, normalise), grid.margin)
    if len(windows) == 1:
        frames[:] = forward([padded])[0]
        return frames
    from pipeline.networks.group_norm import whole_audio_norm  # torch, which planning does without

    with whole_audio_norm(first_convolution, padded):
        for first in range(0, len(windows), windowing.batch_size):
            batch = windows[first : first + windowing.batch_size]
            outputs = forward([padded[slice(*grid.samples(window))] for window in batch])
            for window, output in zip(batch, outputs, strict=True):
                frames[window.keep_start : window.keep_stop] = _kept(output, window)
    return frames


def _kept(output: np.ndarray, window: Window) -> np.ndarray:
    assert len(output) == window.stop - window.start, "the grid says how many frames a window gives"
    return output[window.keep_start - window.start : window.keep_stop - window.start]


def normalised(audio: np.ndarray, epsilon: float) -> np.ndarray:
    """Zero mean and unit variance: float32 [n]."""
    mean, variance = audio.mean(dtype=np.float64), audio.var(dtype=np.float64)
    return ((audio - np.float32(mean)) / np.float32(np.sqrt(variance + epsilon))).astype(np.float32)
