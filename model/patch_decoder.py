"""The patch decoder: windowed layers over elements, each after a cross-attention to the latents already known.

Shape suffixes: L elements, P latents, D local width, W global width, J vectors per latent; in generation B rows of a batch,
R rows that take part in a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from model.cache import Cache
from model.config import ModelConfig
from model.layers import CrossAttention, begin_step, rope_tables
from model.layout import Layout
from model.patch_encoder import blocks_of, make_blocks, stack_cache


@dataclass(eq=False)
class DecoderState:
    """Of generation: what the layers may still read."""

    layers: Cache
    cross_layers: Cache
    num_elements_B: torch.Tensor
    num_latents_B: torch.Tensor


class PatchDecoder(nn.Module):
    """Starts from the encoder's states, not from the embeddings (released code). Its output is not normalised yet."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.patch_decoder is not None
        assert config.vectors_per_patch is not None
        stack = self.stack = config.patch_decoder
        self.vectors_per_patch = config.vectors_per_patch
        global_dim = config.global_transformer.dim
        self.latent_projection = nn.Linear(global_dim, stack.dim * self.vectors_per_patch, bias=False)
        self.cross_layers = nn.ModuleList(
            CrossAttention(stack.dim, stack.cross_heads, config.norm_eps, config.attention)
            for _ in range(stack.num_layers)
        )
        self.layers = make_blocks(stack, config)

    def forward(self, x_LD: torch.Tensor, latent_PW: torch.Tensor, layout: Layout) -> torch.Tensor:
        """States [L, D]: row i is about the element after element i."""
        rope = rope_tables(layout.position_L, self.stack.head_dim, self.stack.rope_theta, x_LD.dtype)
        latent_XD = self.vectors(latent_PW)  # X = P * J
        for cross, layer in zip(self.cross_layers, self.layers, strict=True):
            x_LD = x_LD + cross(x_LD, latent_XD, layout.decoder_cross)
            x_LD = layer(x_LD, rope, layout.decoder_self)
        return x_LD

    def vectors(self, latent_PW: torch.Tensor) -> torch.Tensor:
        """J vectors of local width per latent: [P * J, D]."""
        vectors_XD: torch.Tensor = self.latent_projection(latent_PW).view(-1, self.stack.dim)
        return vectors_XD

    def make_state(self, num_rows: int) -> DecoderState:
        """Empty."""
        stack = self.stack
        layers = stack_cache(stack, self.layers, num_rows, stack.window, stack.window)
        heads, room = (stack.cross_heads, stack.dim // stack.cross_heads), stack.cross_window * self.vectors_per_patch
        weight = self.latent_projection.weight
        cross = Cache(len(self.cross_layers), num_rows, heads, room, stack.cross_window, weight)
        zeros_B = torch.zeros_like(layers.count_B)
        return DecoderState(layers, cross, zeros_B, zeros_B.clone())

    def read_latent(self, latent_RW: torch.Tensor, rows_R: torch.Tensor, state: DecoderState) -> None:
        """Make one more latent readable for each of these rows."""
        vectors_RJD = self.vectors(latent_RW).view(len(rows_R), self.vectors_per_patch, self.stack.dim)
        place = state.cross_layers.reserve(rows_R, state.num_latents_B[rows_R], self.vectors_per_patch)
        for index, cross in enumerate(self.cross_layers):
            cast(CrossAttention, cross).remember(vectors_RJD, state.cross_layers, index, place)
        state.num_latents_B[rows_R] += 1

    def step(
        self, x_RD: torch.Tensor, rows_R: torch.Tensor, position_R: torch.Tensor, state: DecoderState
    ) -> torch.Tensor:
        """States [R, D] about the elements after these."""
        rope = rope_tables(position_R, self.stack.head_dim, self.stack.rope_theta, x_RD.dtype)
        step = begin_step(state.layers, rows_R, state.num_elements_B[rows_R], rope)
        state.num_elements_B[rows_R] += 1
        readable = state.cross_layers.view(rows_R, state.num_latents_B[rows_R] - 1)
        for index, block in enumerate(blocks_of(self.layers)):
            cross = cast(CrossAttention, self.cross_layers[index])
            x_RD = x_RD + cross.step(x_RD[:, None], state.cross_layers, index, readable)[:, 0]
            x_RD = block.step(x_RD, step, index)
        return x_RD
