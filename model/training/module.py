"""A run's model on its device: built without storage, recomputed, compiled and sharded as configured, then given room.

Whole blocks are compiled on CUDA; on CPU the feed-forward layers alone, since attention's tiles are planned in Python.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._functorch import config as functorch
from torch.distributed._composable.checkpoint_activation import checkpoint
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from model.network.config import ModelConfig
from model.network.layers.blocks import Block, CrossAttention, SwiGLU
from model.network.layers.flex import with_own_code
from model.network.lst import build_model
from model.training.config import TrainConfig
from model.training.distributed import Ranks, shard

KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.higher_order.flex_attention,
}
"""What `recompute: selective` does not do twice. Batched products are not among them: they are those of attention's tiles on a
CPU, whose scores are many and are changed in place."""


BUDGET = 0.5
"""Compiled blocks under `recompute: selective` keep this share of what they would keep."""


def make_module(config: TrainConfig, model: ModelConfig, ranks: Ranks) -> nn.Module:
    """The model on this rank's device, sharded where there are several ranks. Its weights are not set yet."""
    with torch.device("meta"):
        module: nn.Module = build_model(model, config.seed)
    if config.recompute:
        recompute(module, config.recompute == "selective", config.compile and ranks.device.type == "cuda")
    if config.compile:
        compile_blocks(module) if ranks.device.type == "cuda" else compile_feed_forward(module)
    if ranks.world > 1:
        shard(module, _layers(module), ranks, config.sharding)
    module.to_empty(device=ranks.device)
    return module


def recompute(module: nn.Module, selective: bool, compiled: bool) -> None:
    """Activation checkpointing of every layer, in place."""
    if selective and compiled:  # the compiler chooses what to compute again, and sees more than a rule could say
        functorch.activation_memory_budget = BUDGET
        return
    kept: dict[str, Callable[[], Any]] = {}
    if selective:
        kept["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_products)
    for layer in _layers(module):
        checkpoint(layer, **kept)


def _layers(module: nn.Module) -> list[nn.Module]:
    return [layer for stack in module.modules() if isinstance(stack, nn.ModuleList) for layer in stack]


def _keep_products(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def compile_feed_forward(module: nn.Module) -> None:
    """The feed-forward layers, in place. On a CPU these alone: inductor recurses without end on a block with its attention."""
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
