"""The plain baseline: one transformer over the elements, no patches ("Base SpeechLLM" of the paper).

Shape suffixes: N elements, R rows asked for, W width; in generation B rows of a batch, X the rows that take part in a
step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from model.network.base import HeadRows, HeadSteps, SpeechTextModel, split_rows
from model.network.batch import Batch
from model.network.config import ModelConfig
from model.network.global_transformer import GlobalState, GlobalTransformer
from model.network.head import Share
from model.network.layers.ngrams import UnitHistory
from model.network.layout import by_modality, derive_plain
from model.network.vocabulary import PAD, SPEECH_MARK


@dataclass(eq=False)
class BaseState:
    """Of generation; mirrors the modules."""

    global_transformer: GlobalState
    heads: dict[Share, HeadSteps]
    history: UnitHistory | None


class BaseSpeechLM(SpeechTextModel):
    """Same blocks, loss and heads as LST; each element is its own latent."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        dim = config.global_transformer.dim
        self.embedding = nn.Embedding(self.vocabulary.size, dim)
        self.ngrams = self.make_ngrams(dim)
        self.global_transformer = GlobalTransformer(config)
        self.heads = self.make_heads({"joint": dim} if config.head == "joint" else {"text": dim, "units": dim})

    def states(self, batch: Batch) -> torch.Tensor:
        """[N, W], not normalised yet."""
        layout = derive_plain(batch)
        layout.intervals.plan(self.config.attention)
        x_NW: torch.Tensor = self.embedding(batch.ids_N)
        if self.ngrams is not None:
            x_NW = x_NW + self.ngrams(batch.ids_N, batch.is_unit_N, batch.doc_id_N)
        x_NW = self.global_transformer(x_NW, layout.position_N, layout.intervals)
        return x_NW

    def head_rows(self, batch: Batch, row_R: torch.Tensor) -> list[HeadRows]:
        """The states that each head reads, for the wanted rows of the batch."""
        x_NW = self.states(batch)
        if self.config.head == "joint":
            return [HeadRows(self.head("joint"), x_NW, row_R, torch.arange(len(row_R), device=row_R.device))]
        in_text, in_speech = by_modality(batch, row_R)
        return [
            HeadRows(self.head("text"), x_NW, row_R[in_text], in_text),
            HeadRows(self.head("units"), x_NW, row_R[in_speech], in_speech),
        ]

    def make_state(self, num_rows: int, capacity: int, packed: bool = False) -> BaseState:
        """Empty: one cache entry per element."""
        return BaseState(
            self.global_transformer.make_state(num_rows, capacity, packed),
            self.head_steps(num_rows, packed),
            self.make_history(num_rows),
        )

    def step(self, state: BaseState, ids_B: np.ndarray, begins_B: np.ndarray, closed_B: np.ndarray) -> torch.Tensor:
        """See `SpeechTextModel.step`; patches mean nothing here."""
        del begins_B, closed_B
        rows_X = np.flatnonzero(ids_B != PAD)
        if not len(rows_X):
            return self.joint_rows([], len(ids_B))
        ids_X = ids_B[rows_X]
        x_XW = self.embedding(torch.as_tensor(ids_X, device=self.embedding.weight.device))
        if state.history is not None:
            state.history.observe(rows_X, ids_X, ids_X >= self.vocabulary.unit_offset)
            x_XW = x_XW + self.ngrams_of(state.history, rows_X)
        x_XW = self.global_transformer.step(x_XW, rows_X, state.global_transformer)
        if self.config.head == "joint":
            return self.joint_rows([(state.heads["joint"], x_XW, rows_X)], len(ids_B))
        speech_X = (ids_X >= self.vocabulary.unit_offset) | (ids_X == SPEECH_MARK)
        return self.joint_rows(split_rows(state.heads, x_XW, rows_X, speech_X), len(ids_B))
