"""The global transformer: causal within a document, over latents. Most of the compute is here.

Shape suffixes: P latents, W global width, B rows of a batch in generation, R rows that take part in a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from model.attention import Intervals
from model.cache import Cache
from model.config import ModelConfig
from model.layers import begin_step, rope_tables
from model.patch_encoder import blocks_of, make_blocks, stack_cache


@dataclass(eq=False)
class GlobalState:
    """Of generation: one cache entry per latent and layer."""

    layers: Cache
    num_latents_B: torch.Tensor
    """Latents so far, which is also the number of steps made for each row."""


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

    def make_state(self, num_rows: int, capacity: int) -> GlobalState:
        """Empty, with room for `capacity` latents per row before it has to grow."""
        cache = stack_cache(self.stack, self.layers, num_rows, capacity, None)
        return GlobalState(cache, torch.zeros_like(cache.count_B))

    def step(self, x_RW: torch.Tensor, rows_R: torch.Tensor, state: GlobalState) -> torch.Tensor:
        """One latent further for each of these rows."""
        position_R = state.num_latents_B[rows_R]
        rope = rope_tables(position_R, self.stack.head_dim, self.stack.rope_theta, x_RW.dtype)
        step = begin_step(state.layers, rows_R, position_R, rope)
        for index, block in enumerate(blocks_of(self.layers)):
            x_RW = block.step(x_RW, step, index)
        state.num_latents_B[rows_R] += 1
        return x_RW
