"""The global transformer: causal within a document, over latents. Most of the compute is here.

Shape suffixes: P latents, W global width, B rows of a batch in generation, R rows that take part in a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from model.network.config import ModelConfig
from model.network.layers.attention import Intervals
from model.network.layers.blocks import rope_tables
from model.network.patch_encoder import make_blocks
from model.network.stepping import StackSteps


@dataclass(eq=False)
class GlobalState:
    """Of generation: one cache entry per latent and layer."""

    layers: StackSteps
    num_latents_B: np.ndarray
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

    def make_state(self, num_rows: int, capacity: int, packed: bool) -> GlobalState:
        """Empty, with room for `capacity` latents per row before it has to grow."""
        layers = StackSteps(self.stack, self.layers, num_rows, capacity, None, packed)
        return GlobalState(layers, np.zeros(num_rows, dtype=np.int64))

    def step(self, x_RW: torch.Tensor, rows_R: np.ndarray, state: GlobalState) -> torch.Tensor:
        """One latent further for each of these rows."""
        position_R = state.num_latents_B[rows_R]
        stack = state.layers.begin(rows_R, position_R, position_R)
        for layer in range(self.stack.num_layers):
            x_RW = stack.run(layer, x_RW)
        state.num_latents_B[rows_R] += 1
        return x_RW
