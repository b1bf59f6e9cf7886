"""Optimisers: AdamW for everything, or Muon for the matrices of the hidden layers and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from model.training.optimisation.config import AdamWConfig, MuonConfig
from model.training.optimisation.muon import ProjectionMuon, projection_rows


class Optimisers:
    """One or two torch optimisers that are stepped as one. Learning rates follow one schedule factor."""

    def __init__(self, config: AdamWConfig | MuonConfig, module: nn.Module) -> None:
        hidden = set(_hidden_matrices(module)) if isinstance(config, MuonConfig) else set()
        rest = [(name, p) for name, p in module.named_parameters() if name not in hidden]
        adamw = config.adamw if isinstance(config, MuonConfig) else config
        decayed = [p for _, p in rest if p.ndim >= 2]
        plain = [p for _, p in rest if p.ndim < 2]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [{"params": decayed, "weight_decay": adamw.weight_decay}, {"params": plain, "weight_decay": 0.0}],
                lr=adamw.lr,
                betas=adamw.betas,
                eps=adamw.eps,
                fused=True if any(p.is_cuda for p in module.parameters()) else None,
            )
        ]
        if isinstance(config, MuonConfig):
            matrices = {name: p for name, p in module.named_parameters() if name in hidden}
            several = projection_rows(module)
            self._parts.append(
                ProjectionMuon(
                    list(matrices.values()),
                    [several.get(name, [len(p)]) for name, p in matrices.items()],
                    lr=config.lr,
                    momentum=config.momentum,
                    weight_decay=config.weight_decay,
                    adjust_lr=config.adjust_lr,
                )
            )
        self._peaks = [group["lr"] for group in self._groups()]
        self.updates = 0
        """Begun in this process."""

    def step(self, factor: float) -> None:
        """One update with every learning rate at `factor` times its peak; gradients are cleared."""
        self.updates += 1  # before it is made: what breaks off in between is told from what is whole
        for group, peak in zip(self._groups(), self._peaks, strict=True):
            group["lr"] = peak * factor
        for part in self._parts:
            part.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Forget gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def tensors(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """Every state tensor by `<parameter>/<name>`, to be saved or loaded in place; zeros before the first step."""
        state: dict[str, torch.Tensor] = {}
        owner = {id(p): part for part in self._parts for group in part.param_groups for p in group["params"]}
        for name, parameter in module.named_parameters():
            part = owner[id(parameter)]
            entry = part.state[parameter]
            if not entry:
                entry.update(_empty_state(part, parameter))
            state.update({f"{name}/{key}": value for key, value in entry.items()})
        return state

    def _groups(self) -> Iterator[dict[str, Any]]:
        for part in self._parts:
            yield from part.param_groups


def _empty_state(part: torch.optim.Optimizer, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """The state that the optimiser itself would begin with."""
    if isinstance(part, ProjectionMuon):
        return {"momentum_buffer": torch.zeros_like(parameter, memory_format=torch.preserve_format)}
    zeros = [torch.zeros_like(parameter, memory_format=torch.preserve_format) for _ in range(2)]
    place = parameter.device if parameter.is_cuda else None  # fused AdamW counts its steps on the device
    return {"step": torch.zeros((), device=place), "exp_avg": zeros[0], "exp_avg_sq": zeros[1]}


def _hidden_matrices(module: nn.Module) -> Iterator[str]:
    """Names of the matrices between embeddings and heads, which is what Muon is made for."""
    tables = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Embedding)}
    for name, parameter in module.named_parameters():
        if parameter.ndim == 2 and name not in tables and name.split(".")[0] != "heads":
            yield name
