"""One process or many: ranks, sums over ranks, sharding. Everything torch.distributed is behind this page."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from schemas.processes import end_with_parent


@dataclass(frozen=True)
class Ranks:
    """Who we are among the processes that torchrun (or Ray Train, or Slurm) started."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """Each value summed over all ranks, in float64."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """`value` of every rank, in rank order, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def ranks() -> Iterator[Ranks]:
    """Join the process group that the environment describes (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).

    Without those variables there is one process and no group. A group that exists already (Ray Train) is used and left alone.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun dies of SIGUSR1 and SIGKILL without a word to its ranks
        end_with_parent(signal.SIGTERM)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    ours = world > 1 and not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank() if dist.is_initialized() else 0, world, device)
    finally:
        if ours:
            dist.destroy_process_group()


def shard(module: nn.Module, layers: list[nn.Module], ranks: Ranks) -> None:
    """Shard parameters over all ranks (FSDP2), in place: each layer on its own, then what is left of the module.

    Gradients are summed, not averaged: the trainer divides the loss by the global number of targets.
    """
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for unit in [*layers, module]:
        sharded = fully_shard(unit, mesh=mesh)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def reshard(module: nn.Module) -> None:
    """Let go of gathered weights. A forward pass without a backward leaves the root's behind, in place of its shards."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
