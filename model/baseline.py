"""The plain baseline: one transformer over the elements, no patches ("Base SpeechLLM" of the paper).

Shape suffixes: N elements, R rows asked for, W width; in generation B rows of a batch, X the rows that take part in a
step.
"""

from __future__ import annotations

import torch
from torch import nn

from model.batch import Batch
from model.config import ModelConfig
from model.global_transformer import GlobalState, GlobalTransformer
from model.interface import HeadRows, SpeechTextModel
from model.layout import derive_plain, speech_rows
from model.vocabulary import PAD, SPEECH_MARK


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

    def make_state(self, num_rows: int, capacity: int) -> GlobalState:
        """Empty: one cache entry per element."""
        return self.global_transformer.make_state(num_rows, capacity)

    def step(
        self, state: GlobalState, ids_B: torch.Tensor, begins_B: torch.Tensor, closed_B: torch.Tensor
    ) -> torch.Tensor:
        """See `SpeechTextModel.step`; patches mean nothing here."""
        del begins_B, closed_B
        rows_X = (ids_B != PAD).nonzero().squeeze(-1)
        x_XW = self.global_transformer.step(self.embedding(ids_B[rows_X]), rows_X, state)
        if self.config.head == "joint":
            return self.joint_rows([(self.head("joint"), x_XW, rows_X)], len(ids_B))
        ids_X = ids_B[rows_X]
        speech_X = (ids_X >= self.vocabulary.unit_offset) | (ids_X == SPEECH_MARK)
        parts = [
            (self.head("text"), x_XW[~speech_X], rows_X[~speech_X]),
            (self.head("units"), x_XW[speech_X], rows_X[speech_X]),
        ]
        return self.joint_rows(parts, len(ids_B))
