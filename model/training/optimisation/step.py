"""What a training step does to a module, whoever drives it: gradients of the mean loss over micro-batches, then one update.

Its numbers may still be on the device when it returns: the host reads them a step later, so that the device never waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from model.monitor.rows import LogRow
from model.network.batch import Batch
from model.network.head import KINDS
from model.training.optimisation.optim import Optimisers


def accumulate(
    module: nn.Module,
    batches: Sequence[Batch],
    targets: float,
    bf16: bool,
    z_loss: float = 0.0,
    reduce: Literal["step", "micro_batch"] = "step",
) -> torch.Tensor:
    """Gradients of (sum of losses / targets), z-loss included. Returns nll_text, nll_unit, num_text, num_unit of these batches,
    then nats by source and kind of target where the batches name their S sources: fp64 [4 + 3 S]. `reduce`: see
    `ShardingConfig`."""
    device = batches[0].ids_N.device
    kinds = KINDS * batches[0].num_sources
    sharded = isinstance(module, FSDPModule)
    totals = torch.zeros(4 + kinds, dtype=torch.float64, device=device)
    for number, batch in enumerate(batches, start=1):
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(number == len(batches) or reduce == "micro_batch")
            module.set_requires_all_reduce(number == len(batches))  # copies are made equal once a step
        # autocast's cache would keep a copy of all gathered weights until the forward pass ends
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=not sharded):
            sums = module(batch, True) if z_loss else module(batch)
        loss = sums.nll_text + sums.nll_unit
        if sums.squares is not None:
            loss = loss + z_loss * sums.squares
        (loss / targets).backward()
        parts = (sums.nll_text, sums.nll_unit, sums.num_text, sums.num_unit)
        totals[:4] += torch.stack([part.detach().double() for part in parts])
        if sums.nll_by_kind is not None:
            totals[4:] += sums.nll_by_kind.flatten()
    return totals


def gradient_norm(module: nn.Module) -> torch.Tensor:
    """Of all gradients together, over all ranks."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def update(module: nn.Module, optimisers: Optimisers, clip_norm: float, norm: torch.Tensor, factor: float) -> None:
    """Cut the gradients to `clip_norm`, given their norm, and take the optimisers' step."""
    torch.nn.utils.clip_grads_with_norm_(module.parameters(), clip_norm, norm)
    optimisers.step(factor)


class Pending:
    """A step that has been started. On CUDA its numbers arrive when the device gets there."""

    def __init__(self, numbers: torch.Tensor, describe: Callable[[list[float]], LogRow]) -> None:
        self._numbers, self._describe = numbers, describe
        self._event: torch.cuda.Event | None = None
        self._row: LogRow | None = None
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    @property
    def ready(self) -> bool:
        """Whether `row` never waits. On a device that is not asked: ranks must come to the same answer."""
        return self._event is None

    def row(self) -> LogRow:
        """What the step was like, once it is done.

        Raises:
            NonFiniteError: with non_finite: stop.
        """
        if self._row is None:
            self.wait()
            self._row = self._describe(self._numbers.tolist())
        return self._row

    def wait(self) -> None:
        """Until the device has finished the step."""
        if self._event is not None:
            self._event.synchronize()
