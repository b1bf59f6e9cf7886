"""Drawing the next element: temperature, top-k and top-p, reproducible row by row.

Shape suffixes: R rows, V joint vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field

from schemas.config import ConfigError, StrictModel


class Sampling(StrictModel):
    """How the next element is chosen."""

    temperature: float = Field(1.0, ge=0)
    """Logits are divided by it; 0: always the likeliest element."""
    top_k: int | None = Field(None, ge=1)
    """Only the k likeliest elements."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Only the smallest set of likeliest elements that holds this much probability (Holtzman et al. 2020), after top_k."""
    seed: int = 0
    """Every row draws from a generator of its own, keyed by the seed and the row's name."""


def probabilities(logits_RV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """What elements are drawn from, fp64 [R, V]; -inf stays impossible. The temperature must not be 0."""
    logits_RV = logits_RV.double() / sampling.temperature
    if sampling.top_k is None and sampling.top_p is None:
        return torch.softmax(logits_RV, dim=-1)
    ordered_RV, index_RV = torch.sort(logits_RV, dim=-1, descending=True, stable=True)
    if sampling.top_k is not None:
        ordered_RV[:, sampling.top_k :] = float("-inf")
    kept_RV = torch.softmax(ordered_RV, dim=-1)
    if sampling.top_p is not None:
        before_RV = kept_RV.cumsum(-1) - kept_RV
        before_RV[:, 0] = 0
        kept_RV = kept_RV.masked_fill(before_RV >= sampling.top_p, 0)
        kept_RV = kept_RV / kept_RV.sum(-1, keepdim=True)
    return torch.zeros_like(kept_RV).scatter(-1, index_RV, kept_RV)


def choose(logits_RV: torch.Tensor, sampling: Sampling, generators: list[np.random.Generator]) -> list[int]:
    """The next element of each row; row i draws one number from generator i.

    Raises:
        ConfigError: the logits are no numbers.
    """
    if bool(logits_RV.isnan().any()):
        raise ConfigError("the model's likelihoods are no numbers: its training diverged", "take an earlier checkpoint")
    if sampling.temperature == 0:
        return [int(row) for row in logits_RV.argmax(-1)]
    cumulative_RV = probabilities(logits_RV, sampling).cumsum(-1)
    draws = torch.tensor([generator.random() for generator in generators], dtype=torch.float64)
    last_R = cumulative_RV[:, -1]  # 1 up to rounding; strictly below it no element of probability 0 is reached
    wanted_R = torch.minimum(draws.to(last_R.device) * last_R, torch.nextafter(last_R, torch.zeros_like(last_R)))
    return [int(row) for row in torch.searchsorted(cumulative_RV, wanted_R[:, None], right=True)[:, 0]]
