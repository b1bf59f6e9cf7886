"""One process or many: ranks, sums over ranks, sharding. Everything torch.distributed is behind this page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from model.training.config import ShardingConfig, TimeoutConfig
from schemas.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """Who we are among the processes that torchrun (or Ray Train, or Slurm) started."""

    rank: int
    world: int
    device: torch.device
    host: dist.ProcessGroup | None = None
    """Where ranks talk about numbers that lie on the host, so that nobody waits for a device; None: the default group."""
    writers: dist.ProcessGroup | None = None
    """For checkpoints that are written beside training."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """Each value summed over all ranks, in float64. Does not wait for the device."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.host)
        return [float(value) for value in tensor.tolist()]

    def sum_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor on the device, summed over all ranks in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def expect_within(self, seconds: float) -> None:
        """From now on a rank that lets the others wait for longer ends the run."""
        if self.world > 1:
            for group in {self.host, None}:
                _set_pg_timeout(timedelta(seconds=seconds), group)

    def gather(self, value: Any) -> list[Any]:
        """`value` of every rank, in rank order, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.host)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier(group=self.host)


@contextmanager
def ranks(timeouts: TimeoutConfig) -> Iterator[Ranks]:
    """Join the process group that the environment describes (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).

    Without those variables there is one process and no group. A group that exists already (Ray Train) is used and left alone.

    Raises:
        ConfigError: this machine has more ranks than GPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", _gpu_of_this_rank())
        torch.cuda.set_device(device)
    ours = world > 1 and not dist.is_initialized()
    if ours:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeouts.start)
        )
    host = writers = None
    # What ranks tell each other on the host must not wait in the device's queue; and the thread that writes a checkpoint talks in
    # a group of its own, for its messages would mix with those of the step that goes on meanwhile.
    if world > 1:
        patience = timedelta(seconds=timeouts.start)
        host = dist.new_group(backend="gloo", timeout=patience) if device.type == "cuda" else None
        writers = dist.new_group(backend="gloo", timeout=patience)
    try:
        yield Ranks(dist.get_rank() if dist.is_initialized() else 0, world, device, host, writers)
    finally:
        if ours:
            dist.destroy_process_group()


def _gpu_of_this_rank() -> int:
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise ConfigError(
            f"rank {number} of this machine has no GPU: there are {there}",
            f"start no more ranks than GPUs (torchrun --nproc-per-node {there})",
        )
    return number


def shard(module: nn.Module, layers: list[nn.Module], ranks: Ranks, config: ShardingConfig) -> None:
    """Shard parameters over ranks (FSDP2), in place: each layer on its own, then what is left of the module.

    Gradients are summed in fp32, not averaged: the trainer divides the loss by the global number of targets. What layers pass on
    keeps its type; only weights of layers may travel as bf16.

    Raises:
        ConfigError: the ranks cannot be dealt into groups of the wanted size.
    """
    shape = mesh_shape(config, ranks.world)
    names = ("shard",) if len(shape) == 1 else ("replicate", "shard")
    mesh = init_device_mesh(ranks.device.type, shape, mesh_dim_names=names)
    for unit in [*layers, module]:
        narrow = config.gather == "bf16" and unit is not module
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if narrow else None,
            reduce_dtype=torch.float32 if narrow else None,
            cast_forward_inputs=False,
        )
        sharded = fully_shard(
            unit,
            mesh=mesh,
            mp_policy=policy,
            reshard_after_forward=config.after_forward == "free" and unit is not module,
        )
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def mesh_shape(config: ShardingConfig, world: int) -> tuple[int, ...]:
    """Groups and the ranks of each; a single group's ranks alone.

    Raises:
        ConfigError: the ranks cannot be dealt into groups of the wanted size.
    """
    group = config.group or world
    if world % group:
        raise ConfigError(f"sharding.group {group} does not divide the {world} ranks")
    return (world,) if group == world else (world // group, group)


def reshard(module: nn.Module) -> None:
    """Let go of gathered weights. A forward pass without a backward leaves the root's behind, in place of its shards."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
