"""39 MFCC features per unit frame: what HuBERT's own first iteration was clustered on. No weights needed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from schemas.cards import Card
from schemas.spec import MfccSpec

SHIFT = 160
"""Samples between MFCC frames: 10 ms."""
WINDOW = 400
"""Samples under an MFCC frame: 25 ms."""
NUM_CEPSTRA = 13
BLOCK_FRAMES = 6_000
"""MFCC frames computed at once: a minute of audio, some 25 MB of windows. Frames are local, so blocks change nothing."""


class MfccEncoder:
    """Kaldi MFCC (13, dither 0, c0 instead of energy) with deltas of first and second order, averaged over the hop."""

    dim = 3 * NUM_CEPSTRA
    batch_size = 1

    def __init__(self, spec: MfccSpec):
        self.hop: int = spec.hop

    def card(self) -> Card:
        """The features are code alone, so the card names the code: torchaudio's version is a note, not a fact."""
        facts = {"features": "kaldi-mfcc-13-d-dd", "average": "hop", "hop": self.hop, "dim": self.dim}
        return Card(
            kind="encoder",
            name="mfcc",
            facts=facts,
            notes={"torchaudio": version("torchaudio"), "license": "no weights"},
        )

    def open(self) -> None:
        """Nothing to load but the libraries, which takes seconds that are no work on the first segment."""
        self.encode(np.zeros(SHIFT * 10, np.float32))

    def close(self) -> None:
        """Nothing to release."""

    def encode_batch(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Features of each clip."""
        return [self.encode(clip) for clip in clips]

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Features of float32 [n] samples at 16 kHz: float32 [n // hop, 39]."""
        num_frames = len(audio) // self.hop
        if num_frames == 0:
            return np.zeros((0, self.dim), np.float32)
        per_frame = self.hop // SHIFT
        features = _with_deltas(_cepstra(audio, num_frames * per_frame))
        return np.asarray(features.reshape(num_frames, per_frame, self.dim).mean(axis=1), np.float32)


def _cepstra(audio: np.ndarray, num_frames: int) -> np.ndarray:
    """float32 [num_frames, 13]; frame i is centred on sample 160 i + 80, with zeros beyond both ends."""
    import torch
    from torchaudio.compliance import kaldi

    margin = (WINDOW - SHIFT) // 2
    samples = np.zeros(num_frames * SHIFT + 2 * margin, np.float32)
    inside = audio[: num_frames * SHIFT + margin]
    samples[margin : margin + len(inside)] = inside
    blocks = []
    for first in range(0, num_frames, BLOCK_FRAMES):
        last = min(first + BLOCK_FRAMES, num_frames)
        waveform = torch.from_numpy(samples[first * SHIFT : (last - 1) * SHIFT + WINDOW])[None]
        blocks.append(kaldi.mfcc(waveform, sample_frequency=16_000, num_ceps=NUM_CEPSTRA, use_energy=False, dither=0.0))
    cepstra: np.ndarray = torch.cat(blocks).numpy()
    assert cepstra.shape == (num_frames, NUM_CEPSTRA)
    return cepstra


def _with_deltas(cepstra: np.ndarray) -> np.ndarray:
    """float32 [T, 39]: cepstra, their slope over five frames, and the slope of that."""
    import torch
    from torchaudio.functional import compute_deltas

    statics = torch.from_numpy(cepstra).T.contiguous()
    deltas = compute_deltas(statics)
    joined: np.ndarray = torch.cat([statics, deltas, compute_deltas(deltas)]).T.contiguous().numpy()
    return joined
