"""Output heads: a norm, a linear map, and the part of the joint vocabulary that it predicts.

Shape suffixes: R rows, D width, V ids of the joint vocabulary, U ids of the head.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from model.network.batch import LossSums
from model.network.layers.blocks import RMSNorm
from model.network.layers.linear_nll import KEPT, linear_nll
from model.network.vocabulary import NUM_SPECIAL, Vocabulary

Share = Literal["joint", "text", "units"]
KINDS = 3
"""Of targets: specials, text tokens, units."""


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
        return self.nll_and_total(x_RD, target_R, with_total=False)[0]

    def nll_and_total(
        self, x_RD: torch.Tensor, target_R: torch.Tensor, with_total: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Nats of the targets, and the log of the partition function of each row, [R] each."""
        own_R = to_share(target_R, self.vocabulary, self.share)
        weight = self.output.weight
        if weight.dtype != torch.float64 and len(x_RD) * len(weight) > KEPT:
            device = x_RD.device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
            nll_R, total_R = linear_nll(self.norm(x_RD), weight, own_R, dtype)
            return nll_R, total_R if with_total else None
        logits_RU: torch.Tensor = self(x_RD)
        if logits_RU.dtype != torch.float64:
            logits_RU = logits_RU.float()
        total_R = torch.logsumexp(logits_RU, dim=-1) if with_total else None
        return F.cross_entropy(logits_RU, own_R, reduction="none"), total_R

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


@dataclass(frozen=True)
class HeadTargets:
    """What one head has to predict: states [R, D], targets [R] and, where the batch has them, the targets' sources [R]."""

    head: OutputHead
    x_RD: torch.Tensor
    target_R: torch.Tensor
    source_R: torch.Tensor | None


def sum_losses(
    parts: Iterable[HeadTargets], vocabulary: Vocabulary, num_sources: int = 0, with_squares: bool = False
) -> LossSums:
    """Sums over the parts, per modality of the target, and per source and kind of target where sources are known."""
    nll_text, num_text, nll_unit, num_unit = [], [], [], []
    squares = []
    by_kind = None
    for part in parts:
        target_R = part.target_R
        nll_R, total_R = part.head.nll_and_total(part.x_RD, target_R, with_squares)
        if total_R is not None:
            squares.append(total_R.square().sum())
        unit_R = target_R >= vocabulary.unit_offset
        nll_text.append(nll_R.masked_fill(unit_R, 0).sum())
        nll_unit.append(nll_R.masked_fill(~unit_R, 0).sum())
        num_text.append((~unit_R).sum())
        num_unit.append(unit_R.sum())
        if part.source_R is not None:
            kind_R = KINDS * part.source_R + target_kind(target_R, vocabulary)
            if by_kind is None:
                by_kind = torch.zeros(KINDS * num_sources, dtype=torch.float64, device=nll_R.device)
            by_kind = by_kind.index_add(0, kind_R, nll_R.detach().double())
    return LossSums(
        nll_text=torch.stack(nll_text).sum(),
        num_text=torch.stack(num_text).sum(),
        nll_unit=torch.stack(nll_unit).sum(),
        num_unit=torch.stack(num_unit).sum(),
        nll_by_kind=None if by_kind is None else by_kind.view(num_sources, KINDS),
        squares=torch.stack(squares).sum() if squares else None,
    )


def target_kind(target: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
    """int64: 0 for a special, 1 for a text token, 2 for a unit."""
    return (target >= NUM_SPECIAL).long() + (target >= vocabulary.unit_offset).long()
