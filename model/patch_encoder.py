"""The patch encoder: windowed causal layers over elements, then each latent gathers its elements.

Shape suffixes: L elements, S latents, D local width, J vectors per latent (the paper's k).
"""

from __future__ import annotations

import torch
from torch import nn

from model.config import ModelConfig, StackConfig
from model.layers import Block, CrossAttention, rope_tables
from model.layout import Layout


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
