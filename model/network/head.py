"""Output heads: a norm, a linear map, and the part of the joint vocabulary that it predicts.

Shape suffixes: R rows, D width, V ids of the joint vocabulary, U ids of the head.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from model.network.batch import LossSums
from model.network.layers import RMSNorm
from model.network.linear_nll import KEPT, linear_nll
from model.network.vocabulary import NUM_SPECIAL, Vocabulary

Share = Literal["joint", "text", "units"]


def share_size(vocabulary: Vocabulary, share: Share) -> int:
    """Ids in a share of the vocabulary; the specials belong to each."""
    sizes = {"joint": vocabulary.size, "text": vocabulary.unit_offset, "units": NUM_SPECIAL + vocabulary.num_units}
    return sizes[share]


def to_share(ids: torch.Tensor, vocabulary: Vocabulary, share: Share) -> torch.Tensor:
    """Joint ids as ids of the share: `units` keeps specials first and drops the text tokens between."""
    if share != "units":
        return ids
    return torch.where(ids >= vocabulary.unit_offset, ids - vocabulary.num_text, ids)


class OutputHead(nn.Module):
    """Predicts the next element from a row's state."""

    def __init__(self, dim: int, norm_eps: float, vocabulary: Vocabulary, share: Share) -> None:
        super().__init__()
        self.vocabulary, self.share = vocabulary, share
        self.norm = RMSNorm(dim, norm_eps)
        self.output = nn.Linear(dim, share_size(vocabulary, share), bias=False)

    def forward(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Logits [R, U] over the head's own ids."""
        logits_RU: torch.Tensor = self.output(self.norm(x_RD))
        return logits_RU

    def nll(self, x_RD: torch.Tensor, target_R: torch.Tensor) -> torch.Tensor:
        """Nats of the targets (joint ids) [R], in at least fp32."""
        own_R = to_share(target_R, self.vocabulary, self.share)
        weight = self.output.weight
        if weight.dtype != torch.float64 and len(x_RD) * len(weight) > KEPT:
            device = x_RD.device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
            return linear_nll(self.norm(x_RD), weight, own_R, dtype)
        logits_RU: torch.Tensor = self(x_RD)
        if logits_RU.dtype != torch.float64:
            logits_RU = logits_RU.float()
        return F.cross_entropy(logits_RU, own_R, reduction="none")

    def joint_logits(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] over the joint vocabulary, -inf where the head does not reach."""
        logits_RU: torch.Tensor = self(x_RD)
        return self.widen(logits_RU)

    def widen(self, logits_RU: torch.Tensor) -> torch.Tensor:
        """[R, V] from the head's own ids."""
        if self.share == "joint":
            return logits_RU
        logits_RV = logits_RU.new_full((len(logits_RU), self.vocabulary.size), float("-inf"))
        if self.share == "text":
            logits_RV[:, : self.vocabulary.unit_offset] = logits_RU
        else:
            logits_RV[:, :NUM_SPECIAL] = logits_RU[:, :NUM_SPECIAL]
            logits_RV[:, self.vocabulary.unit_offset :] = logits_RU[:, NUM_SPECIAL:]
        return logits_RV


def sum_losses(parts: Iterable[tuple[OutputHead, torch.Tensor, torch.Tensor]], vocabulary: Vocabulary) -> LossSums:
    """Sum (head, rows [R, D], targets [R]) over the parts, per modality of the target."""
    nll_text, num_text, nll_unit, num_unit = [], [], [], []
    for head, x_RD, target_R in parts:
        nll_R = head.nll(x_RD, target_R)
        unit_R = target_R >= vocabulary.unit_offset
        nll_text.append(nll_R.masked_fill(unit_R, 0).sum())
        nll_unit.append(nll_R.masked_fill(~unit_R, 0).sum())
        num_text.append((~unit_R).sum())
        num_unit.append(unit_R.sum())
    sums = (torch.stack(terms).sum() for terms in (nll_text, num_text, nll_unit, num_unit))
    return LossSums(*sums)
