"""The patch encoder: windowed causal layers over elements, then each latent gathers its elements.

Shape suffixes: L elements, S latents, D local width, J vectors per latent (the paper's k); in generation B rows of a batch,
R rows that take part in a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from model.network.cache import Cache
from model.network.config import ModelConfig, StackConfig
from model.network.layers.blocks import Block, CrossAttention, rope_tables
from model.network.layout import LatentLayout
from model.network.stepping import CrossSteps, Product, StackSteps


@dataclass(eq=False)
class EncoderState:
    """Of generation: what the layers may still read, and the patch that is open."""

    layers: StackSteps
    cross_layers: list[CrossSteps]
    cross_cache: Cache
    pool_projection: Product
    pooled_BD: torch.Tensor
    """Running maximum over the elements of the open patch."""
    num_elements_B: np.ndarray
    num_latents_B: np.ndarray
    """Patches begun so far."""


class PatchEncoder(nn.Module):
    """Paper section 3; released code `local_models.py`. Pooling: max over the elements, then k queries per latent."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        parts = config.patch_parts
        stack = self.stack = parts.encoder
        self.vectors_per_patch = parts.vectors_per_patch
        self.layers = make_blocks(stack, config)
        self.pool_projection = nn.Linear(stack.dim, stack.dim * self.vectors_per_patch, bias=False)
        num_cross = stack.num_layers if stack.cross_layers == "all" else 1
        self.cross_layers = nn.ModuleList(
            CrossAttention(stack.dim, stack.cross_heads, config.norm_eps, config.attention) for _ in range(num_cross)
        )

    def forward(self, x_LD: torch.Tensor, layout: LatentLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """The elements' states [L, D] and the latents [S, J * D]."""
        rope = rope_tables(layout.position_L, self.stack.head_dim, self.stack.rope_theta, x_LD.dtype)
        latent_XD = None  # X = S * J
        for index, layer in enumerate(self.layers):
            x_LD = layer(x_LD, rope, layout.encoder_self)
            if cross := self.cross_after(index):
                if latent_XD is None:
                    # under autocast a product is bf16; what layers add to stays as wide as the elements are
                    latent_XD = self.queries(max_pool(x_LD, layout.pool_L, layout.num_pooled)).to(x_LD.dtype)
                latent_XD = latent_XD + cross(latent_XD, x_LD, layout.encoder_cross)
        assert latent_XD is not None, "cross-attention follows the last layer at least"
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

    def make_state(self, num_rows: int, packed: bool) -> EncoderState:
        """Empty; the cache of cross-attention grows with the patches."""
        stack, window, weight = self.stack, self.stack.cross_window, self.pool_projection.weight.detach()
        heads = (stack.cross_heads, stack.dim // stack.cross_heads)
        return EncoderState(
            layers=StackSteps(stack, self.layers, num_rows, stack.window, stack.window, packed),
            cross_layers=[CrossSteps(cast(CrossAttention, cross), packed, num_rows) for cross in self.cross_layers],
            cross_cache=Cache(len(self.cross_layers), num_rows, heads, 4 * window, window, weight),
            pool_projection=Product(weight, packed, num_rows),
            pooled_BD=weight.new_zeros(num_rows, stack.dim),
            num_elements_B=np.zeros(num_rows, dtype=np.int64),
            num_latents_B=np.zeros(num_rows, dtype=np.int64),
        )

    def step(
        self,
        x_RD: torch.Tensor,
        rows_R: np.ndarray,
        position_R: np.ndarray,
        begins_R: np.ndarray,
        state: EncoderState,
    ) -> torch.Tensor:
        """States [R, D] of one new element per row; `begins_R`: it opens a patch. `position_R` is its place in the document."""
        stack = state.layers.begin(rows_R, state.num_elements_B[rows_R], position_R)
        state.num_elements_B[rows_R] += 1
        state.num_latents_B[rows_R] += begins_R
        place = state.cross_cache.reserve(rows_R, state.num_latents_B[rows_R] - 1)
        first = self.stack.num_layers - len(state.cross_layers)
        for layer in range(self.stack.num_layers):
            x_RD = stack.run(layer, x_RD)
            if layer == first:
                _pool(state.pooled_BD, x_RD, rows_R, begins_R)
            if layer >= first:
                state.cross_layers[layer - first].remember(x_RD, state.cross_cache, layer - first, place)
        return x_RD

    def finish(self, rows_R: np.ndarray, state: EncoderState) -> torch.Tensor:
        """The latents [R, J * D] of the open patches of these rows, as they are now."""
        view = state.cross_cache.view(rows_R, state.num_latents_B[rows_R] - 1)
        pooled_RD = state.pooled_BD if len(rows_R) == len(state.pooled_BD) else state.pooled_BD[torch.as_tensor(rows_R)]
        latent_XD = state.pool_projection(pooled_RD).view(-1, self.stack.dim)  # X = R * J
        for index, cross in enumerate(state.cross_layers):
            latent_XD = cross(latent_XD, state.cross_cache, index, view, self.vectors_per_patch)
        return latent_XD.view(len(rows_R), -1)


def _pool(pooled_BD: torch.Tensor, x_RD: torch.Tensor, rows_R: np.ndarray, begins_R: np.ndarray) -> None:
    """Take new elements into the running maxima of their rows, or begin anew with them."""
    if len(rows_R) == len(pooled_BD) and begins_R.all():
        pooled_BD.copy_(x_RD)
    elif len(rows_R) == len(pooled_BD) and not begins_R.any():
        torch.maximum(pooled_BD, x_RD, out=pooled_BD)
    else:
        rows, begins = (torch.as_tensor(values, device=x_RD.device) for values in (rows_R, begins_R))
        pooled_BD[rows] = torch.where(begins[:, None], x_RD, torch.maximum(pooled_BD[rows], x_RD))


def make_blocks(stack: StackConfig, config: ModelConfig) -> nn.ModuleList:
    """The transformer layers of a stack."""
    return nn.ModuleList(
        Block(
            stack.dim, stack.num_heads, stack.kv_heads, stack.ffn_dim, config.norm_eps, config.attention, config.qk_norm
        )
        for _ in range(stack.num_layers)
    )


def max_pool(x_LD: torch.Tensor, pool_L: torch.Tensor, num_pooled: int) -> torch.Tensor:
    """The largest value of each feature over the elements of each latent; zero for latents without elements."""
    pooled = x_LD.new_zeros(num_pooled + 1, x_LD.shape[1])
    index_LD = pool_L[:, None].expand_as(x_LD)
    return pooled.scatter_reduce(0, index_LD, x_LD, "amax", include_self=False)[:-1]
