"""Random draws that depend on their key alone, so that neither workers, ranks nor a resume can change them."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """A counter-based generator for one purpose: Philox, keyed by the sha256 of the seed and `key`."""
    text = "\x1f".join(str(part) for part in (seed, *key))
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
