"""Initial weights from one seed per parameter: they depend on neither the world size nor the order of creation."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.", "_fsdp_wrapped_module.")
"""What recomputation and compilation put into parameter names."""
BLOCK = 2**20
"""Matrices of more than four times as many numbers are drawn in blocks of rows, so that a rank draws its own rows alone."""


@torch.no_grad()
def init_weights(module: nn.Module, seed: int) -> None:
    """Draw every parameter: matrices from a normal of std fan_in ** -0.5 cut at three deviations, gains as ones.

    Works after `to_empty` and on sharded (DTensor) parameters: each rank draws what it holds (of a small matrix all, of which
    it keeps its part), and nothing is sent. Parameters on the meta device are left alone.
    """
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            continue
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        if isinstance(parameter, DTensor):
            shape, offset = compute_local_shape_and_global_offset(
                parameter.shape, parameter.device_mesh, parameter.placements
            )
            rows = slice(offset[0], offset[0] + shape[0]) if shape[0] else slice(0, 0)
            parameter.to_local().copy_(draw_parameter(name, parameter.shape, seed, rows))
        else:
            parameter.copy_(draw_parameter(name, parameter.shape, seed))


@torch.no_grad()
def assign(parameter: torch.Tensor, full: torch.Tensor) -> None:
    """Set a parameter, sharded or not, from the full tensor, which every rank holds."""
    full = full.to(parameter.device, parameter.dtype)
    if isinstance(parameter, DTensor):
        # src_data_rank=None: every rank holds the full tensor already, so nothing is sent.
        full = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.copy_(full)


def draw_parameter(name: str, shape: torch.Size, seed: int, rows: slice | None = None) -> torch.Tensor:
    """The fp32 initial value of the parameter of this name, or of some of its rows."""
    first, last = (0, shape[0]) if rows is None else (rows.start, rows.stop)
    if len(shape) == 1:
        return torch.ones(last - first)
    if shape.numel() <= 4 * BLOCK:
        return _normal(f"{seed}:{name}", shape, shape[-1])[first:last]
    height = max(1, BLOCK // shape[1:].numel())
    parts = [torch.empty(0, *shape[1:])]
    for start in range(first - first % height, last, height):
        stop = min(start + height, shape[0])
        block = _normal(f"{seed}:{name}:{start}", torch.Size([stop - start, *shape[1:]]), shape[-1])
        parts.append(block[max(first - start, 0) : max(last - start, 0)])
    return torch.cat(parts)


def _normal(key: str, shape: torch.Size, fan_in: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))
    std = fan_in**-0.5
    return nn.init.trunc_normal_(torch.empty(shape), std=std, a=-3 * std, b=3 * std, generator=generator)
