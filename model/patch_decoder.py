"""The patch decoder: windowed layers over elements, each after a cross-attention to the latents already known.

Shape suffixes: L elements, P latents, D local width, W global width, J vectors per latent.
"""

from __future__ import annotations

import torch
from torch import nn

from model.config import ModelConfig
from model.layers import CrossAttention, rope_tables
from model.layout import Layout
from model.patch_encoder import make_blocks


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
