"""Letters per frame from the states of a Whisper encoder.

Shapes: B clips, T frames, D width of the encoder, H hidden width, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 5
"""Frames that a convolution sees: 100 ms."""


class LetterHead(nn.Module):
    """Each state normalised on its own (their scales differ a hundredfold), a projection, residual convolutions, labels."""

    def __init__(self, *, width: int, num_states: int, hidden: int, num_convolutions: int, num_labels: int) -> None:
        super().__init__()
        self.enter = nn.Linear(num_states * width, hidden)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(hidden, hidden, KERNEL, padding=KERNEL // 2) for _ in range(num_convolutions)
        )
        self.leave = nn.Linear(hidden, num_labels)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """States [B, T, D] -> logits [B, T, C]."""
        x = torch.cat([F.layer_norm(state, state.shape[-1:]) for state in states], dim=-1)
        h_BHT = F.gelu(self.enter(x)).transpose(1, 2)
        for convolution in self.convolutions:
            h_BHT = h_BHT + F.gelu(convolution(h_BHT))
        logits: Tensor = self.leave(h_BHT.transpose(1, 2))
        return logits
