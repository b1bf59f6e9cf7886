"""Memory of a training step on one rank, part by part, before anything is allocated.

Counted from the configuration: what the optimiser holds, and what a block keeps for its backward pass (products' inputs and
outputs in the type of the products, residual streams in fp32; one that is not compiled also what it could make again). Left
out: the allocator's rounding, CUDA's own part (about 0.7 GiB) and buffers of a single operation. `python -m model.gpu_check`
compares it with what an H100 used.

Shape suffixes as in `model.network.layout`: N elements, P latents.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from model.cost.presets import empty_model
from model.network.config import LocalStackConfig, ModelConfig, StackConfig
from model.network.layers.linear_nll import CHUNK

FP32, BF16 = 4, 2


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How a run will be laid out."""

    elements: int
    latents: int
    """Budgets of a micro-batch."""
    bf16: bool
    recompute: bool
    shards: int
    """Ranks that share one copy."""
    muon: bool
    keeps_gathered: bool
    """Whether a layer's gathered weights stay until the backward pass."""
    narrow: bool = False
    """Whether weights of layers travel between ranks as bf16."""
    compiled: bool = True
    """Whether whole blocks are."""
    accumulates: bool = False
    """Whether a rank's share of a step is several micro-batches whose gradients are dealt out once a step: until the last, FSDP
    keeps them whole."""


def memory_by_part(config: ModelConfig, plan: MemoryPlan) -> dict[str, float]:
    """Bytes on a rank at the peak of a step, by part."""
    model = empty_model(config)
    size = sum(parameter.numel() for parameter in model.parameters())
    layers = [layer for stack in model.modules() if isinstance(stack, nn.ModuleList) for layer in stack]
    hidden = sum(p.numel() for layer in layers for p in layer.parameters())
    largest = max(sum(p.numel() for p in layer.parameters()) for layer in layers)
    moments = 2 * size - (hidden if plan.muon else 0)
    width = BF16 if plan.bf16 else FP32
    if plan.shards == 1:
        copies = BF16 * size if plan.bf16 else 0
    else:  # what is outside layers stays; a layer's weights as they come and as they are used, its whole gradients as they go
        travels = BF16 if plan.narrow else FP32
        gathered = travels * (hidden + largest if plan.keeps_gathered else 2 * largest) + FP32 * (size - hidden)
        copies = gathered + FP32 * largest
        if (
            plan.bf16 and not plan.narrow
        ):  # a product keeps its weights as it took them, which a compiled block casts again
            copies += BF16 * (largest if plan.compiled or plan.recompute else hidden)
    rows = config.vocabulary.size if config.vocabulary else 0
    logits = min(CHUNK, rows * plan.elements) * (2 * FP32 + width)
    return {
        "weights": FP32 * size / plan.shards,
        "gradients": FP32 * size / (1 if plan.accumulates else plan.shards),
        "optimiser": FP32 * moments / plan.shards,
        "weights as the products take them": copies,
        "activations": _activations(config, plan),
        "head": logits + 2 * FP32 * rows * _head_dim(config),
    }


def _head_dim(config: ModelConfig) -> int:
    local = config.patch_decoder
    return config.global_transformer.dim if local is None else local.dim


def _activations(config: ModelConfig, plan: MemoryPlan) -> float:
    encoder, decoder, stack = config.patch_encoder, config.patch_decoder, config.global_transformer
    if encoder is None or decoder is None:
        return plan.elements * stack.num_layers * _block_row(stack, plan)
    vectors = plan.latents * (config.vectors_per_patch or 1)
    num_cross = encoder.num_layers if encoder.cross_layers == "all" else 1
    return (
        plan.latents * stack.num_layers * _block_row(stack, plan)
        + plan.elements
        * (encoder.num_layers * _block_row(encoder, plan) + decoder.num_layers * _block_row(decoder, plan))
        + num_cross * _cross(encoder, vectors, plan.elements, plan)
        + decoder.num_layers * _cross(decoder, plan.elements, vectors, plan)
    )


def _block_row(stack: StackConfig, plan: MemoryPlan) -> float:
    """Bytes that a block keeps for each of its rows."""
    if plan.recompute:
        return FP32 * stack.dim
    width = BF16 if plan.bf16 else FP32
    heads = (stack.num_heads + 2 * stack.kv_heads) * stack.head_dim
    if not plan.compiled:  # queries and keys as they were turned, while the values keep what they were split from
        heads += (stack.num_heads + stack.kv_heads) * stack.head_dim
    products = (
        3 * stack.dim + heads + 3 * stack.ffn_dim
    )  # two normed inputs, attention's output; q, k, v; gate, up, hidden
    return 2 * FP32 * stack.dim + width * products


def _cross(stack: LocalStackConfig, queries: float, keys: float, plan: MemoryPlan) -> float:
    width = BF16 if plan.bf16 else FP32
    if plan.recompute:
        return FP32 * stack.dim * queries
    return queries * stack.dim * (FP32 + 3 * width) + keys * stack.dim * 3 * width
