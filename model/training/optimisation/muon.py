"""Muon (Jordan et al. 2024), one update for each projection of a matrix that holds several.

torch's own orthogonalises whole parameters. Ours hold queries, keys and values, gate and up, keys and values of cross-attention
in one matrix each, because one product is faster than three; together, the projections would share one spectrum. The
Newton-Schulz iteration and the adjustment of the rate are torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from model.network.layers.blocks import CrossAttention, SelfAttention, SwiGLU

COEFFICIENTS, STEPS, EPS = (3.4445, -4.775, 2.0315), 5, 1e-7
"""Of the iteration: torch's defaults."""


class ProjectionMuon(torch.optim.Optimizer):
    """`rows` says how many rows of each parameter belong to each projection."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        rows: Sequence[Sequence[int]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        adjust_lr: Literal["original", "match_rms_adamw"],
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._rows = {parameter: list(sizes) for parameter, sizes in zip(parameters, rows, strict=True)}
        self._adjust_lr = adjust_lr

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update, with Nesterov momentum and decoupled decay."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, parameter: nn.Parameter, lr: float, momentum: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer, gradient = state["momentum_buffer"], parameter.grad
        buffer.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum)
        # The iteration needs the whole matrix. Each rank does all of it: more work than dealing the projections out to them, and
        # nothing to keep track of. Projections that are stacked in one parameter are made orthogonal one by one.
        whole = update.full_tensor() if isinstance(update, DTensor) else update
        scaled = torch.cat(
            [
                _zeropower_via_newtonschulz(part, COEFFICIENTS, STEPS, EPS).to(parameter.dtype)
                * _adjust_lr(lr, self._adjust_lr, part.shape)
                for part in whole.split(self._rows[parameter])
            ]
        )
        if isinstance(parameter, DTensor):  # every rank holds the whole update; nothing is sent
            scaled = distribute_tensor(scaled, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.mul_(1 - lr * weight_decay).sub_(scaled)


def projection_rows(module: nn.Module) -> dict[str, list[int]]:
    """Rows of each projection, by the name of a parameter that holds several."""
    rows: dict[str, list[int]] = {}
    for name, part in module.named_modules():
        if isinstance(part, SelfAttention):
            heads, groups = part.num_heads, part.num_kv_heads
            rows[f"{name}.qkv.weight"] = [count * part.head_dim for count in (heads, groups, groups)]
        elif isinstance(part, SwiGLU):
            rows[f"{name}.gate_up.weight"] = [part.gate_up.out_features // 2] * 2
        elif isinstance(part, CrossAttention):
            rows[f"{name}.key_value.weight"] = [part.key_value.out_features // 2] * 2
    return rows
