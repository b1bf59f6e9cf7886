"""The patch decoder: windowed layers over elements, each after a cross-attention to the latents already known.

Shape suffixes: L elements, P latents, E of them that a layer runs over, D local width, W global width,
J vectors per latent; in generation B rows of a batch,
R rows that take part in a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from model.network.cache import Cache
from model.network.config import ModelConfig
from model.network.layers.blocks import CrossAttention, rope_tables
from model.network.layout import LatentLayout
from model.network.patch_encoder import make_blocks
from model.network.stepping import CrossSteps, Product, StackSteps


@dataclass(eq=False)
class DecoderState:
    """Of generation: what the layers may still read."""

    layers: StackSteps
    cross_layers: list[CrossSteps]
    cross_cache: Cache
    latent_projection: Product
    num_elements_B: np.ndarray
    num_latents_B: np.ndarray


class PatchDecoder(nn.Module):
    """Starts from the encoder's states, not from the embeddings (released code). Its output is not normalised yet."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        parts = config.patch_parts
        stack = self.stack = parts.decoder
        self.vectors_per_patch = parts.vectors_per_patch
        global_dim = config.global_transformer.dim
        self.latent_projection = nn.Linear(global_dim, stack.dim * self.vectors_per_patch, bias=False)
        self.cross_layers = nn.ModuleList(
            CrossAttention(stack.dim, stack.cross_heads, config.norm_eps, config.attention)
            for _ in range(stack.num_layers)
        )
        self.layers = make_blocks(stack, config)

    def forward(self, x_LD: torch.Tensor, latent_PW: torch.Tensor, layout: LatentLayout) -> torch.Tensor:
        """States [L, D]: row i is about the element after element i."""
        rope = rope_tables(layout.position_L, self.stack.head_dim, self.stack.rope_theta, x_LD.dtype)
        latent_XD = self.vectors(latent_PW).to(x_LD.dtype)  # X = P * J
        for cross, layer in zip(self.cross_layers, self.layers, strict=True):
            x_LD = x_LD + cross(x_LD, latent_XD, layout.decoder_cross)
            x_LD = layer(x_LD, rope, layout.decoder_self)
        return x_LD

    def forward_ends(
        self, x_LD: torch.Tensor, latent_PW: torch.Tensor, layout: LatentLayout, rows: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """`forward` where only the newest elements of each document count: layer i runs over `rows[i]`, indices into L that
        each layer has fewer of. States [len(rows[-1]), D]."""
        cos_LK, sin_LK = rope_tables(layout.position_L, self.stack.head_dim, self.stack.rope_theta, x_LD.dtype)
        latent_XD = self.vectors(latent_PW).to(x_LD.dtype)
        present_L = torch.arange(len(x_LD), device=x_LD.device)
        for cross, layer, row_E in zip(self.cross_layers, self.layers, rows, strict=True):
            x_ED = x_LD[torch.searchsorted(present_L, row_E)]
            x_ED = x_ED + cross(x_ED, latent_XD, layout.decoder_cross.of_queries(row_E))
            x_LD = layer(x_ED, (cos_LK[row_E], sin_LK[row_E]), layout.decoder_self.among(row_E))
            present_L = row_E
        return x_LD

    def vectors(self, latent_PW: torch.Tensor) -> torch.Tensor:
        """J vectors of local width per latent: [P * J, D]."""
        vectors_XD: torch.Tensor = self.latent_projection(latent_PW).view(-1, self.stack.dim)
        return vectors_XD

    def make_state(self, num_rows: int, packed: bool) -> DecoderState:
        """A state that has seen nothing."""
        stack, weight = self.stack, self.latent_projection.weight.detach()
        heads, room = (stack.cross_heads, stack.dim // stack.cross_heads), stack.cross_window * self.vectors_per_patch
        return DecoderState(
            layers=StackSteps(stack, self.layers, num_rows, stack.window, stack.window, packed),
            cross_layers=[CrossSteps(cast(CrossAttention, cross), packed, num_rows) for cross in self.cross_layers],
            cross_cache=Cache(
                len(self.cross_layers), num_rows, heads, room, stack.cross_window, weight, self.vectors_per_patch
            ),
            latent_projection=Product(weight, packed, num_rows),
            num_elements_B=np.zeros(num_rows, dtype=np.int64),
            num_latents_B=np.zeros(num_rows, dtype=np.int64),
        )

    def read_latent(self, latent_RW: torch.Tensor, rows_R: np.ndarray, state: DecoderState) -> None:
        """Make one more latent readable for each of these rows: its keys and values are made here, once."""
        vectors_XD = state.latent_projection(latent_RW).view(-1, self.stack.dim)  # X = R * J
        place = state.cross_cache.reserve(rows_R, state.num_latents_B[rows_R], self.vectors_per_patch)
        for index, cross in enumerate(state.cross_layers):
            cross.remember(vectors_XD, state.cross_cache, index, place, self.vectors_per_patch)
        state.num_latents_B[rows_R] += 1

    def step(self, x_RD: torch.Tensor, rows_R: np.ndarray, position_R: np.ndarray, state: DecoderState) -> torch.Tensor:
        """States [R, D] about the elements after these."""
        stack = state.layers.begin(rows_R, state.num_elements_B[rows_R], position_R)
        state.num_elements_B[rows_R] += 1
        readable = state.cross_cache.view(rows_R, state.num_latents_B[rows_R] - 1)
        for layer, cross in enumerate(state.cross_layers):
            if readable.used:
                x_RD = cross(x_RD, state.cross_cache, layer, readable)
            x_RD = stack.run(layer, x_RD)
        return x_RD
