"""Group norm over time, as base models have after their first convolution: statistics of the whole audio for its windows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

BLOCK = 1 << 20
"""First-layer frames per step of the statistics pass: 80 MB of float64."""


class Affine(torch.nn.Module):
    """scale and shift [C, 1], or [B, C, 1] for rows with their own, over [B, C, T]: a norm whose statistics are known already."""

    def __init__(self, scale: np.ndarray, shift: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("scale", torch.from_numpy(scale).float()[..., None])
        self.register_buffer("shift", torch.from_numpy(shift).float()[..., None])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[B, C, T] -> [B, C, T]"""
        return torch.addcmul(self.shift, hidden, self.scale)


@contextmanager
def whole_audio_norm(layer: Any, *waves: np.ndarray) -> Iterator[None]:
    """While it lasts, the group norm of a first convolution layer (`conv`, `layer_norm`) uses the statistics of a whole wave:
    those of the one given for all rows, or of several, one per row of the batches that go through.

    Each output of that layer is linear in the samples it sees (10 of them, every 5 samples), so the mean and the variance of
    each channel follow from the mean and the covariance of those 10: a cheap pass over the audio instead of one through the
    network. Layers without group norm stay as they are.
    """
    norm = getattr(layer, "layer_norm", None)
    if not isinstance(norm, torch.nn.GroupNorm):
        yield
        return
    parts = [_affine(layer.conv, norm, wave) for wave in waves]
    scale, shift = (np.stack(column) if len(waves) > 1 else column[0] for column in zip(*parts, strict=True))
    layer.layer_norm = Affine(scale, shift).to(layer.conv.weight.device, layer.conv.weight.dtype)
    try:
        yield
    finally:
        layer.layer_norm = norm


def _affine(convolution: Any, norm: torch.nn.GroupNorm, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of each channel, float64 [C]."""
    mean, covariance = patch_statistics(wave, convolution.kernel_size[0], convolution.stride[0])
    weight = convolution.weight.detach()[:, 0].double().cpu().numpy()
    bias = 0.0 if convolution.bias is None else convolution.bias.detach().double().cpu().numpy()
    centre = weight @ mean + bias
    variance = np.einsum("ci,ij,cj->c", weight, covariance, weight).clip(min=0)
    scale = norm.weight.detach().double().cpu().numpy() / np.sqrt(variance + norm.eps)
    shift = norm.bias.detach().double().cpu().numpy() - centre * scale
    return scale, shift


def patch_statistics(samples: np.ndarray, kernel: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [kernel] and covariance [kernel, kernel], float64, of the patches that a convolution sees in float32 [n]."""
    patches = np.lib.stride_tricks.sliding_window_view(samples, kernel)[::stride]
    total, products = np.zeros(kernel), np.zeros((kernel, kernel))
    for first in range(0, len(patches), BLOCK):
        block = patches[first : first + BLOCK].astype(np.float64)
        total += block.sum(axis=0)
        products += block.T @ block
    mean = total / len(patches)
    return mean, products / len(patches) - np.outer(mean, mean)
