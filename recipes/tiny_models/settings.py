"""What every step shares: folders, the seed, the voices and who is held out of what."""

from __future__ import annotations

import os
from pathlib import Path

SEED = 20261122
SAMPLE_RATE = 16_000
FRAME = 320
"""Samples per frame of the CTC model and of the teacher."""
UNIT_HOP = 640
"""Samples per frame of the tiny HuBERT: 25 Hz, the rate of the paper's units."""
PAD = 40
"""Samples of context the convolutions need on each side for exactly `samples // hop` frames."""

TRAIN_FLITE = ("slt", "awb", "kal16")
UNSEEN_FLITE = "rms"
"""Never synthesised for training, of either model."""
UNSEEN_KOKORO = ("af_heart", "am_michael", "bf_emma", "bm_george")
UNSEEN_REAL = ("jfk_inaugural_1961", "sense_and_sensibility")
"""File name prefixes of real readers kept out of training."""


def root() -> Path:
    """The working folder: `TINY_MODELS_ROOT`, or `runs/tiny_models` of the checkout. Several GB;
    nothing in it is committed."""
    folder = Path(os.environ.get("TINY_MODELS_ROOT", Path(__file__).parents[2] / "runs" / "tiny_models"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def packages() -> Path:
    """Where `fetch` unpacks the registry packages."""
    return root() / "packages"


def assets() -> Path:
    """Where the finished models go."""
    return Path(__file__).parents[2] / "assets"


def one_thread() -> None:
    """One torch thread: on a shared small machine two threads are slower than one for products of this size."""
    import torch  # synthesisers need these settings and no torch

    torch.set_num_threads(1)
