"""torch.compile: whole blocks on CUDA; on CPU the feed-forward layers alone, since attention's tiles are planned in Python."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from model.network.flex import with_own_code
from model.network.layers import Block, CrossAttention, SwiGLU


def compile_feed_forward(module: nn.Module) -> None:
    """The feed-forward layers, in place."""
    for part in module.modules():
        if isinstance(part, SwiGLU):
            part.compile(dynamic=True)


def compile_blocks(module: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Every block and cross-attention, in place: one graph for each of the model's attention patterns.

    The forward methods are compiled, not the modules, so that hooks (FSDP's, recomputation's) stay outside the graphs.
    """
    for stack, layers in _stacks(module):
        first = layers[0]
        own = with_own_code(type(first).forward, f"{stack.replace('.', '_')}_forward")
        for layer in layers:
            layer.forward = torch.compile(types.MethodType(own, layer), fullgraph=True, backend=backend)


def _stacks(module: nn.Module) -> Iterator[tuple[str, list[nn.Module]]]:
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) and isinstance(part[0], Block | CrossAttention):
            yield name, list(part)
