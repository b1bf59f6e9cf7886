"""Initial weights from one seed per parameter: they depend on neither the world size nor the order of creation."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.", "_fsdp_wrapped_module.")
"""What recomputation and compilation put into parameter names."""


@torch.no_grad()
def init_weights(module: nn.Module, seed: int) -> None:
    """Draw every parameter: matrices from a normal of std fan_in ** -0.5 cut at three deviations, gains as ones.

    Works after `to_empty` and on sharded (DTensor) parameters: each rank draws the full tensor and keeps its shard.
    Parameters on the meta device are left alone.
    """
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            continue
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        assign(parameter, draw_parameter(name, parameter.shape, seed))


@torch.no_grad()
def assign(parameter: torch.Tensor, full: torch.Tensor) -> None:
    """Set a parameter, sharded or not, from the full tensor, which every rank holds."""
    full = full.to(parameter.device, parameter.dtype)
    if isinstance(parameter, DTensor):
        # src_data_rank=None: every rank holds the full tensor already, so nothing is sent.
        full = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.copy_(full)


def draw_parameter(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """The fp32 initial value of the parameter of this name."""
    if len(shape) == 1:
        return torch.ones(shape)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    std = shape[-1] ** -0.5
    return nn.init.trunc_normal_(torch.empty(shape), std=std, a=-3 * std, b=3 * std, generator=generator)
