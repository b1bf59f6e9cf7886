"""Convolutions in bfloat16 on a CPU, where oneDNN has them wrong."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NARROW = 16
"""Channels of a group below which oneDNN's convolution of bfloat16 is wrong on processors with AMX (docs/decisions.md)."""


@contextmanager
def exact_convolutions(model: Any, device: str, dtype: Any) -> Iterator[None]:
    """Goes around oneDNN where a model of few channels computes in bfloat16 on a CPU; published models have groups wide enough.

    model: a torch module; dtype: torch's.
    """
    import torch

    if device != "cpu" or dtype != torch.bfloat16 or not any(map(_is_narrow, model.modules())):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration")  # of setting what is not asked for
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _is_narrow(module: Any) -> bool:
    groups = getattr(module, "groups", 1)
    return groups > 1 and module.in_channels // groups < NARROW
