"""Rooms, telephone bands and noises for clean speech: what is said, and when, stays exactly as it was.

All in torch and by frequency, so that a batch costs little on any device. Filters have no delay and a room's direct sound
comes first, so that word times stay true. Shapes: [B, n] waves, [B] parameters.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.voices.settings import SAMPLE_RATE

TELEPHONE = (300.0, 3400.0)
"""Hertz: the band of a telephone line (ITU-T G.712)."""


def room(waves: Tensor, t60: Tensor, direct_db: Tensor, generator: torch.Generator) -> Tensor:
    """In a room of reverberation time `t60` (seconds): the direct sound, `direct_db` above a tail of decaying noise.

    Polack's model of late reverberation: white Gaussian noise that decays by 60 dB in T60.
    """
    length = max(1, int(float(t60.max()) * SAMPLE_RATE))
    times = torch.arange(length, device=waves.device) / SAMPLE_RATE
    tail = _normal((len(waves), length), waves, generator) * 10 ** (-3 * times / t60[:, None])
    tail[:, 0] = 0
    response = tail / tail.square().sum(dim=1, keepdim=True).sqrt() * 10 ** (-direct_db[:, None] / 20)
    response[:, 0] = 1
    size = _fast(waves.shape[1] + length)
    spectrum = torch.fft.rfft(waves, size) * torch.fft.rfft(response, size)
    return torch.fft.irfft(spectrum, size)[:, : waves.shape[1]]


def band(waves: Tensor, low: Tensor, high: Tensor, order: int = 4) -> Tensor:
    """Only what lies between two frequencies (Hz), with the magnitudes of Butterworth filters."""
    size = _fast(waves.shape[1] + SAMPLE_RATE // 10)
    frequencies = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE, device=waves.device).clamp(min=1.0)
    gains = (1 + (low[:, None] / frequencies) ** (2 * order)).rsqrt() * (
        1 + (frequencies / high[:, None]) ** (2 * order)
    ).rsqrt()
    return torch.fft.irfft(torch.fft.rfft(waves, size) * gains, size)[:, : waves.shape[1]]


def mu_law(waves: Tensor) -> Tensor:
    """As eight bits hold it on a telephone line (ITU-T G.711), at the clip's own full scale."""
    peak = waves.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    x = waves / peak
    coded = torch.sign(x) * torch.log1p(255 * x.abs()) / math.log(256)
    coded = (coded * 127).round() / 127
    return torch.sign(coded) * (torch.expm1(coded.abs() * math.log(256)) / 255) * peak


def coloured(waves: Tensor, slope: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of the waves' shape whose power falls with frequency to the power of `slope`: 0 white, 1 pink, 2 brown."""
    size = _fast(waves.shape[1])
    spectrum = torch.fft.rfft(_normal((len(waves), size), waves, generator))
    frequencies = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE, device=waves.device).clamp(min=30.0)
    return torch.fft.irfft(spectrum * frequencies ** (-slope[:, None] / 2), size)[:, : waves.shape[1]]


def add(waves: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """The waves with noise so many decibels below their own mean power."""
    power = waves.square().mean(dim=1, keepdim=True) / noise.square().mean(dim=1, keepdim=True).clamp(min=1e-12)
    return waves + noise * power.sqrt() * 10 ** (-snr_db[:, None] / 20)


def degrade(waves: Tensor, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """Training's mixture: each clip in a room (half), with other voices, hum or noise behind it (two in three), through a narrow
    band (four in ten), and clipped (one in ten). One in ten or so stays as clean as it was."""
    batch = len(waves)

    def draw(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, batch).astype(np.float32)).to(waves.device)

    def some(share: float) -> Tensor:
        return torch.from_numpy(rng.random((batch, 1)) < share).to(waves.device)

    waves = torch.where(some(0.5), room(waves, draw(0.1, 0.9), draw(-15, 10), generator), waves)
    babble = sum((waves.roll(shift, 0).flip(1) if shift % 2 else waves.roll(shift, 0)) for shift in (1, 2, 3))
    noise = torch.where(some(0.2), torch.as_tensor(babble), coloured(waves, draw(-0.5, 2.2), generator))
    noise = torch.where(some(0.15), _hum(waves, draw(45, 400), generator), noise)
    noise = noise * (1 + some(0.3) * torch.sin(_ramp(waves) * draw(0.5, 8)[:, None] * 2 * math.pi) * 0.9)
    noisy = add(waves, noise, draw(3, 30))
    before = some(0.5)  # noise of the room, or of the line
    waves = torch.where(some(0.65) & before, noisy, waves)
    narrow = torch.where(
        some(0.6), band(waves, draw(200, 400), draw(3000, 3600)), band(waves, draw(30, 300), draw(2500, 7500))
    )
    narrow = torch.where(some(0.4), mu_law(narrow), narrow)
    waves = torch.where(some(0.4), narrow, waves)
    waves = torch.where(some(0.4) & ~before, add(waves, noise, draw(5, 35)), waves)
    peak = waves.abs().amax(dim=1, keepdim=True).clamp(min=1e-6)
    limit = peak * draw(0.15, 0.7)[:, None]
    waves = torch.where(some(0.1), waves.clamp(-limit, limit), waves)
    return waves / waves.abs().amax(dim=1, keepdim=True).clamp(min=1e-6) * 10 ** (draw(-35, 0)[:, None] / 20)


def _hum(waves: Tensor, base: Tensor, generator: torch.Generator) -> Tensor:
    ramp = _ramp(waves)
    loud = _normal((len(waves), 12), waves, generator)
    hum = torch.zeros_like(waves)
    for number in range(12):
        hum += loud[:, number : number + 1] * torch.sin(2 * math.pi * (number + 1) * base[:, None] * ramp)
    return hum


def _ramp(waves: Tensor) -> Tensor:
    return torch.arange(waves.shape[1], device=waves.device) / SAMPLE_RATE


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, device=like.device, generator=generator)


def _fast(size: int) -> int:
    """The next length that is a power of two, or one and a half times one."""
    power = 1 << (size - 1).bit_length()
    return power * 3 // 4 if size <= power * 3 // 4 else power


def soften(mask: Tensor, samples: int) -> Tensor:
    """A mask of zeros and ones [B, n] with edges `samples` wide."""
    return F.avg_pool1d(mask[:, None], 2 * samples + 1, 1, samples, count_include_pad=False)[:, 0]
