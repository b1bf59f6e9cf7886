"""Clips of several lengths through a network in one step, each as if it went through alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.networks.windowed import normalised
from pipeline.networks.windows import ConvGrid

PaddedForward = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""float32 [clips, longest] and int64 [clips], the samples of each, to frames: float32 [clips, frames, width]. The rest of a row
is zeros; the network must mask them in its attention."""


def run_padded(
    clips: Sequence[np.ndarray],
    *,
    grid: ConvGrid,
    longest: int,
    forward: PaddedForward,
    alone: Callable[[np.ndarray], np.ndarray],
    first_convolution: Any,
    normalise: float | None,
) -> list[np.ndarray]:
    """The frames of each clip, float32 [n // hop, width]; clips of more than `longest` samples, or without a frame, go `alone`.

    Padding reaches no frame that is kept: convolutions see no further than the margin, attention is masked, and a group norm over
    time after `first_convolution` gets the statistics of each clip. `normalise` is that of `run_windowed`.
    """
    from pipeline.networks.group_norm import whole_audio_norm  # torch, which planning does without

    together = [place for place, clip in enumerate(clips) if grid.hop <= len(clip) <= longest]
    if len(together) < 2:
        return [alone(clip) for clip in clips]
    waves = [
        np.pad(clips[place] if normalise is None else normalised(clips[place], normalise), grid.margin)
        for place in together
    ]
    lengths = np.array([len(wave) for wave in waves], np.int64)
    batch = np.stack([np.pad(wave, (0, lengths.max() - len(wave))) for wave in waves]).astype(np.float32, copy=False)
    results = {place: alone(clip) for place, clip in enumerate(clips) if place not in set(together)}
    with whole_audio_norm(first_convolution, *waves):
        frames = forward(batch, lengths)
    results |= {place: row[: len(clips[place]) // grid.hop] for place, row in zip(together, frames, strict=True)}
    return [results[place] for place in range(len(clips))]
