"""Measures of a segment's sound, from its samples alone: clipping, bandwidth, signal to noise, share of music."""

from __future__ import annotations

import numpy as np

from schemas.audio import SAMPLE_RATE

FLAT = 1e-4
"""Neighbours that differ by less than this share of the peak lie on a flat top."""
NEAR_PEAK = 0.98
"""Of the peak: equal neighbours below it are a quiet stretch or coarse quantisation, not a top that was cut off."""
SILENT = 1e-4
"""A peak below this is digital silence."""
NOISE_FRAME, NOISE_HOP, RUMBLE = 800, 160, 80.0
"""50 ms every 10 ms, above 80 Hz."""
FLOOR = 0.1
"""The quietest tenth of the frames is taken to be noise: pauses between words."""
MOST_SNR = 60.0
"""dB: where pauses are digital silence the ratio would be infinite."""
BAND_FFT = 512
BAND_LEVEL = -60.0
"""dB below the loudest bin, smoothed over BAND_SMOOTH bins, under which a frequency counts as empty."""
BAND_SMOOTH = 5
MUSIC_FFT, MUSIC_HOP, MUSIC_BLOCK = 1024, 256, 100
"""64 ms every 16 ms, judged 1.6 s at a time."""
MUSIC_NEIGHBOURS = 21
"""Bins, 330 Hz in all, whose mean a bin has to stand out from."""
MUSIC_RISE = 9.0
"""dB by which a bin stands out among its neighbours."""
MUSIC_SCORE = 4.0
"""Sum over the five strongest bins of the share of frames in which they stand out, less that of the bins around them: at most
3.6 in the demo's speech (median 2.1), at least 4.8 in chords."""


def clipping(samples: np.ndarray) -> float:
    """Share of float32 [n] that lies on flat tops: neighbours near the peak that are equal.

    Counts what was cut at this rate; resampling or lossy coding after the cut rounds the tops, and less is found.
    """
    level = np.abs(samples)
    peak = float(level.max(initial=0.0))
    if peak < SILENT:
        return 0.0
    equal = (np.abs(np.diff(samples)) < FLAT * peak) & (level[1:] > NEAR_PEAK * peak)
    on_top = np.zeros(len(samples), bool)
    on_top[1:] |= equal
    on_top[:-1] |= equal
    return float(on_top.mean())


def _power(samples: np.ndarray, size: int, hop: int) -> np.ndarray:
    """Hann-windowed power spectra of float32 [n]: float64 [frames, size // 2 + 1]; at least one frame."""
    padded = np.pad(samples, (0, max(size - len(samples), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    power: np.ndarray = np.square(np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)))
    return power


def bandwidth(samples: np.ndarray) -> float:
    """The highest frequency in Hz that the sound ever reaches: 60 dB below the loudest bin, by the maximum over time.

    The idea of NeMo's bandwidth estimate: telephone speech reads as 3,400 to 4,000 whatever rate the file states.
    """
    loudest = _power(samples, BAND_FFT, BAND_FFT // 2).max(axis=0)
    if loudest.max() <= 0:
        return 0.0
    level = 10 * np.log10(np.maximum(loudest, 1e-30))
    smooth = np.convolve(np.pad(level, BAND_SMOOTH // 2, mode="edge"), np.ones(BAND_SMOOTH) / BAND_SMOOTH, "valid")
    reached = np.flatnonzero(smooth > smooth.max() + BAND_LEVEL)
    return float(reached[-1] * SAMPLE_RATE / BAND_FFT)


def signal_to_noise(samples: np.ndarray) -> float:
    """Speech over noise in dB above 80 Hz, at most 60: mean power against that of the quietest tenth of 50 ms frames.

    Right where noise is steady and the segment has a pause; a segment that is speech throughout reads as noisier than it is.
    """
    spectra = _power(samples, NOISE_FRAME, NOISE_HOP)
    power = spectra[:, int(RUMBLE * NOISE_FRAME / SAMPLE_RATE) :].sum(axis=1)
    noise = float(np.sort(power)[: max(int(len(power) * FLOOR), 1)].mean())
    speech = float(power.mean()) - noise
    if speech <= 0:
        return 0.0
    return float(min(10 * np.log10(speech / max(noise, 1e-30)), MOST_SNR))


def music(samples: np.ndarray) -> float:
    """Share of the time in which steady tones sound, as instruments and singing on a note do and speech does not.

    Continuous frequency activation (Seyerlehner et al., DAFx 2007): bins that stand out among their neighbours, in the same place
    over 1.6 s. Drums and noise alone are not found.
    """
    power = _power(samples, MUSIC_FFT, MUSIC_HOP)
    level = 10 * np.log10(np.maximum(power, power.max(initial=0.0) * 1e-8 + 1e-20))
    half = MUSIC_NEIGHBOURS // 2
    total = np.cumsum(np.pad(level, ((0, 0), (half + 1, half)), mode="edge"), axis=1)
    around = (total[:, MUSIC_NEIGHBOURS:] - total[:, :-MUSIC_NEIGHBOURS]) / MUSIC_NEIGHBOURS
    stands_out = level - around > MUSIC_RISE
    blocks = [stands_out[at : at + MUSIC_BLOCK] for at in range(0, len(stands_out), MUSIC_BLOCK)]
    musical = sum(len(block) for block in blocks if _steadiness(block) > MUSIC_SCORE)
    return musical / len(stands_out)


def _steadiness(block: np.ndarray) -> float:
    activation = block.mean(axis=0)
    dips = np.minimum(np.roll(activation, 3), np.roll(activation, -3))
    return float(np.sort(np.maximum(activation - dips, 0.0))[-5:].sum())
