"""The patch encoder: windowed causal layers over elements, then each latent gathers its elements.

Shape suffixes: L elements, S latents, D local width, J vectors per latent (the paper's k); in generation B rows of a batch,
R rows that take part in a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from model.cache import Cache
from model.config import ModelConfig, StackConfig
from model.layers import Block, CrossAttention, begin_step, rope_tables
from model.layout import Layout


@dataclass(eq=False)
class EncoderState:
    """Of generation: what the layers may still read, and the patch that is open."""

    layers: Cache
    cross_layers: Cache
    pooled_BD: torch.Tensor
    """Running maximum over the elements of the open patch."""
    num_elements_B: torch.Tensor
    num_latents_B: torch.Tensor
    """Patches begun so far."""


class PatchEncoder(nn.Module):
    """Paper section 3; released code `local_models.py`. Pooling: max over the elements, then k queries per latent."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.patch_encoder is not None
        assert config.vectors_per_patch is not None
        stack = self.stack = config.patch_encoder
        self.vectors_per_patch = config.vectors_per_patch
        self.layers = make_blocks(stack, config)
        self.pool_projection = nn.Linear(stack.dim, stack.dim * self.vectors_per_patch, bias=False)
        num_cross = stack.num_layers if stack.cross_layers == "all" else 1
        self.cross_layers = nn.ModuleList(
            CrossAttention(stack.dim, stack.cross_heads, config.norm_eps, config.attention) for _ in range(num_cross)
        )

    def forward(self, x_LD: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
        """The elements' states [L, D] and the latents [S, J * D]."""
        rope = rope_tables(layout.position_L, self.stack.head_dim, self.stack.rope_theta, x_LD.dtype)
        latent_XD = None  # X = S * J
        for index, layer in enumerate(self.layers):
            x_LD = layer(x_LD, rope, layout.encoder_self)
            if cross := self.cross_after(index):
                if latent_XD is None:
                    latent_XD = self.queries(max_pool(x_LD, layout.pool_L, layout.num_pooled))
                latent_XD = latent_XD + cross(latent_XD, x_LD, layout.encoder_cross)
        assert latent_XD is not None
        return x_LD, latent_XD.view(layout.num_pooled, self.stack.dim * self.vectors_per_patch)

    def cross_after(self, layer: int) -> CrossAttention | None:
        """The cross-attention that follows a layer, if one does."""
        first = self.stack.num_layers - len(self.cross_layers)
        module = self.cross_layers[layer - first] if layer >= first else None
        assert module is None or isinstance(module, CrossAttention)
        return module

    def queries(self, pooled_SD: torch.Tensor) -> torch.Tensor:
        """J queries per pooled latent: [S * J, D]."""
        queries_XD: torch.Tensor = self.pool_projection(pooled_SD).view(-1, self.stack.dim)
        return queries_XD

    def make_state(self, num_rows: int) -> EncoderState:
        """Empty; the cache of cross-attention grows with the patches."""
        stack, window = self.stack, self.stack.cross_window
        layers = stack_cache(stack, self.layers, num_rows, stack.window, stack.window)
        weight = self.pool_projection.weight
        heads = (stack.cross_heads, stack.dim // stack.cross_heads)
        cross = Cache(len(self.cross_layers), num_rows, heads, 4 * window, window, weight)
        zeros_B = torch.zeros_like(layers.count_B)
        return EncoderState(layers, cross, weight.new_zeros(num_rows, stack.dim), zeros_B, zeros_B.clone())

    def step(
        self,
        x_RD: torch.Tensor,
        rows_R: torch.Tensor,
        position_R: torch.Tensor,
        begins_R: torch.Tensor,
        state: EncoderState,
    ) -> torch.Tensor:
        """States [R, D] of one new element per row; `begins_R`: it opens a patch. `position_R` is its place in the document."""
        stack = self.stack
        rope = rope_tables(position_R, stack.head_dim, stack.rope_theta, x_RD.dtype)
        step = begin_step(state.layers, rows_R, state.num_elements_B[rows_R], rope)
        state.num_elements_B[rows_R] += 1
        state.num_latents_B[rows_R] += begins_R.long()
        place = state.cross_layers.reserve(rows_R, state.num_latents_B[rows_R] - 1)
        first = stack.num_layers - len(self.cross_layers)
        for index, block in enumerate(blocks_of(self.layers)):
            x_RD = block.step(x_RD, step, index)
            if cross := self.cross_after(index):
                if index == first:
                    highest_RD = torch.maximum(state.pooled_BD[rows_R], x_RD)
                    state.pooled_BD[rows_R] = torch.where(begins_R[:, None], x_RD, highest_RD)
                cross.remember(x_RD[:, None], state.cross_layers, index - first, place)
        return x_RD

    def finish(self, rows_R: torch.Tensor, state: EncoderState) -> torch.Tensor:
        """The latents [R, J * D] of the open patches of these rows, as they are now."""
        view = state.cross_layers.view(rows_R, state.num_latents_B[rows_R] - 1)
        latent_RJD = self.queries(state.pooled_BD[rows_R]).view(len(rows_R), self.vectors_per_patch, self.stack.dim)
        for index, cross in enumerate(self.cross_layers):
            latent_RJD = latent_RJD + cast(CrossAttention, cross).step(latent_RJD, state.cross_layers, index, view)
        return latent_RJD.flatten(1)


def blocks_of(layers: nn.ModuleList) -> list[Block]:
    """The layers of a stack, typed."""
    return [cast(Block, layer) for layer in layers]


def stack_cache(stack: StackConfig, layers: nn.ModuleList, num_rows: int, capacity: int, window: int | None) -> Cache:
    """An empty cache for the self-attention of a stack."""
    like = blocks_of(layers)[0].attention.out.weight
    return Cache(len(layers), num_rows, (stack.kv_heads, stack.head_dim), capacity, window, like)


def make_blocks(stack: StackConfig, config: ModelConfig) -> nn.ModuleList:
    """The transformer layers of a stack."""
    return nn.ModuleList(
        Block(stack.dim, stack.num_heads, stack.kv_heads, stack.ffn_dim, config.norm_eps, config.attention)
        for _ in range(stack.num_layers)
    )


def max_pool(x_LD: torch.Tensor, pool_L: torch.Tensor, num_pooled: int) -> torch.Tensor:
    """The largest value of each feature over the elements of each latent; zero for latents without elements."""
    pooled = x_LD.new_zeros(num_pooled + 1, x_LD.shape[1])
    index_LD = pool_L[:, None].expand_as(x_LD)
    return pooled.scatter_reduce(0, index_LD, x_LD, "amax", include_self=False)[:-1]
