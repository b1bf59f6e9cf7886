"""Where sound begins and ends around a word, from loudness alone: for models that do not say it themselves.

A model trained with plain CTC puts each letter on a frame or two somewhere near its sound.
"""

from __future__ import annotations

import numpy as np

ENERGY_HOP = 160
"""10 ms: the step in which the sound after a word's last letter is followed."""
MAX_TAIL = 3_200
"""200 ms: how far a word may sound on after its last letter was heard. Models that put a letter on one frame need it."""
MAX_LEAD = 480
"""30 ms: how far the start of a word after a pause is moved to where sound begins: letters are heard a little after that."""
LOUD = 0.35
"""A frame is sound when its level lies this share of the way from the segment's floor to its peak, in decibels."""
MIN_RANGE = 15.0
"""Decibels between floor and peak under which a segment has no silence to tell sound from."""


def loud_steps(audio: np.ndarray) -> np.ndarray:
    """bool per 10 ms: whether there is sound, by the segment's own range of levels; nothing where that range tells nothing."""
    num_steps = len(audio) // ENERGY_HOP
    if num_steps == 0:
        return np.zeros(0, bool)
    steps = audio[: num_steps * ENERGY_HOP].reshape(num_steps, ENERGY_HOP).astype(np.float64)
    level = 10 * np.log10((steps**2).mean(axis=1) + 1e-10)
    floor, peak = np.percentile(level, [5, 95])
    if peak - floor < MIN_RANGE:
        return np.zeros(0, bool)
    return np.asarray(level > floor + LOUD * (peak - floor))


def onset(start: int, low: int, high: int, loud: np.ndarray) -> int:
    """Where the sound of a word after a pause begins: within (low, high), at most MAX_LEAD from its first letter's `start`."""
    step = own = start // ENERGY_HOP
    if step >= len(loud):
        return start
    if loud[step]:
        while step > 0 and loud[step - 1] and (step - 1) * ENERGY_HOP >= max(low, start - MAX_LEAD):
            step -= 1
    else:
        while step < len(loud) and not loud[step]:
            step += 1
        if step * ENERGY_HOP > min(high - 1, start + MAX_LEAD):
            return start
    return start if step == own else step * ENERGY_HOP


def offset(last: int, following: int, loud: np.ndarray) -> int:
    """Where a word before a pause ends: with the sound after its last letter, at the next word at the latest."""
    limit = min(following, last + MAX_TAIL)
    step = last // ENERGY_HOP
    while step < len(loud) and loud[step] and (step + 1) * ENERGY_HOP <= limit:
        step += 1
    return max(last, min(step * ENERGY_HOP, limit)) if step > last // ENERGY_HOP else min(last, following)
