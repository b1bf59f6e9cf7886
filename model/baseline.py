"""The plain baseline: one transformer over the elements, no patches ("Base SpeechLLM" of the paper).

Shape suffixes: N elements, R rows asked for, W width.
"""

from __future__ import annotations

import torch
from torch import nn

from model.batch import Batch
from model.config import ModelConfig
from model.global_transformer import GlobalTransformer
from model.interface import HeadRows, SpeechTextModel
from model.layout import derive_plain, speech_rows


class BaseSpeechLM(SpeechTextModel):
    """Same blocks, loss and heads as LST; each element is its own latent."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        dim = config.global_transformer.dim
        self.embedding = nn.Embedding(self.vocabulary.size, dim)
        self.global_transformer = GlobalTransformer(config)
        self.heads = self.make_heads({"joint": dim} if config.head == "joint" else {"text": dim, "units": dim})

    def states(self, batch: Batch) -> torch.Tensor:
        """[N, W], not normalised yet."""
        layout = derive_plain(batch)
        x_NW: torch.Tensor = self.global_transformer(self.embedding(batch.ids_N), layout.position_N, layout.intervals)
        return x_NW

    def head_rows(self, batch: Batch, row_R: torch.Tensor) -> list[HeadRows]:
        """The rows of each head."""
        x_NW = self.states(batch)
        if self.config.head == "joint":
            return [HeadRows(self.head("joint"), x_NW, row_R, torch.arange(len(row_R), device=row_R.device))]
        speech_R = speech_rows(batch)[row_R]
        chosen = {"text": (~speech_R).nonzero().squeeze(-1), "units": speech_R.nonzero().squeeze(-1)}
        return [
            HeadRows(self.head("text"), x_NW, row_R[chosen["text"]], chosen["text"]),
            HeadRows(self.head("units"), x_NW, row_R[chosen["units"]], chosen["units"]),
        ]
