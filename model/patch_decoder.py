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
from model.layers import CrossAttention, rope_tables
from model.layout import Layout
from model.patch_encoder import blocks_of, make_blocks


@dataclass(eq=False)
class DecoderState:
    """Of generation: what the layers may still read."""

    layers: list[Cache]
    cross_layers: list[Cache]
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
        layers = [block.attention.make_cache(num_rows, stack.window, stack.window) for block in blocks_of(self.layers)]
        room = stack.cross_window * self.vectors_per_patch
        cross = [
            cast(CrossAttention, layer).make_cache(num_rows, room, stack.cross_window, grows=False)
            for layer in self.cross_layers
        ]
        zeros_B = torch.zeros(num_rows, dtype=torch.int64, device=layers[0].count_B.device)
        return DecoderState(layers, cross, zeros_B, zeros_B.clone())

    def read_latent(self, latent_RW: torch.Tensor, rows_R: torch.Tensor, state: DecoderState) -> None:
        """Make one more latent readable for each of these rows."""
        vectors_RJD = self.vectors(latent_RW).view(len(rows_R), self.vectors_per_patch, self.stack.dim)
        tag_R = state.num_latents_B[rows_R]
        for cross, cache in zip(self.cross_layers, state.cross_layers, strict=True):
            for index in range(self.vectors_per_patch):
                cast(CrossAttention, cross).remember(vectors_RJD[:, index], cache, rows_R, tag_R)
        state.num_latents_B[rows_R] += 1

    def step(
        self, x_RD: torch.Tensor, rows_R: torch.Tensor, position_R: torch.Tensor, state: DecoderState
    ) -> torch.Tensor:
        """States [R, D] about the elements after these."""
        rope = rope_tables(position_R, self.stack.head_dim, self.stack.rope_theta, x_RD.dtype)
        tag_R, newest_R = state.num_elements_B[rows_R], state.num_latents_B[rows_R] - 1
        state.num_elements_B[rows_R] += 1
        for index, block in enumerate(blocks_of(self.layers)):
            cross = cast(CrossAttention, self.cross_layers[index])
            x_RD = x_RD + cross.step(x_RD[:, None], state.cross_layers[index], rows_R, newest_R)[:, 0]
            x_RD = block.step(x_RD, rope, state.layers[index], rows_R, tag_R)
        return x_RD
