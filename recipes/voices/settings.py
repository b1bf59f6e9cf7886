"""What every voice and recipe shares: the seed, the sampling rate, and where packages are unpacked."""

from __future__ import annotations

import os
from pathlib import Path

SEED = 20261122
SAMPLE_RATE = 16_000


def root() -> Path:
    """The working folder: `TINY_MODELS_ROOT`, or `runs/tiny_models` of the checkout. Several GB; nothing in it is committed."""
    folder = Path(os.environ.get("TINY_MODELS_ROOT", Path(__file__).parents[2] / "runs" / "tiny_models"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def packages() -> Path:
    """Where `fetch` unpacks the registry packages."""
    return root() / "packages"
