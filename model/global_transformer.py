"""The global transformer: causal within a document, over latents. Most of the compute is here.

Shape suffixes: P latents, E encoder output width (vectors per patch x local width), W global width.
"""

from __future__ import annotations

import torch
from torch import nn

from model.attention import Intervals
from model.config import ModelConfig
from model.layers import rope_tables
from model.patch_encoder import make_blocks


class GlobalTransformer(nn.Module):
    """Also the whole of the plain baseline. There is no norm after it: who reads the latents normalises them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stack = config.global_transformer
        self.layers = make_blocks(self.stack, config)

    def forward(self, x_PW: torch.Tensor, position_P: torch.Tensor, intervals: Intervals) -> torch.Tensor:
        """[P, W] in, [P, W] out."""
        rope = rope_tables(position_P, self.stack.head_dim, self.stack.rope_theta, x_PW.dtype)
        for layer in self.layers:
            x_PW = layer(x_PW, rope, intervals)
        return x_PW
