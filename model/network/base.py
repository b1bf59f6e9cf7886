"""What LST and the plain baseline have in common: a packed batch in, loss sums or logits out.

Shape suffixes: N elements, R rows with a target, V joint vocabulary; in generation B rows of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from model.network.batch import Batch, LossSums
from model.network.config import ModelConfig
from model.network.global_transformer import GlobalTransformer
from model.network.head import HeadTargets, OutputHead, Share, sum_losses
from model.network.layers.ngrams import NgramEmbedding, UnitHistory
from model.network.layout import target_rows
from model.network.stepping import Norm, Product
from model.network.vocabulary import Vocabulary


@dataclass(frozen=True)
class HeadRows:
    """The rows that one head predicts from: `states[index]` belongs to `rows[chosen]` of the rows that were asked for."""

    head: OutputHead
    states: torch.Tensor
    index: torch.Tensor
    chosen: torch.Tensor


class HeadSteps:
    """An output head, for generation."""

    def __init__(self, head: OutputHead, packed: bool, num_rows: int) -> None:
        self.head, self.norm = head, Norm(head.norm)
        self.output = Product(head.output.weight, packed, num_rows)

    def __call__(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] over the joint vocabulary."""
        return self.head.widen(self.output(self.norm(x_RD)))


class SpeechTextModel(nn.Module):
    """A language model over packed elements of text and speech. Subclasses give `head_rows`."""

    vocabulary: Vocabulary
    config: ModelConfig
    heads: nn.ModuleDict
    global_transformer: GlobalTransformer
    ngrams: NgramEmbedding | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.vocabulary = config, config.data_vocabulary

    def head_rows(self, batch: Batch, row_R: torch.Tensor) -> list[HeadRows]:
        """The states of these rows, as each head reads them."""
        raise NotImplementedError

    def forward(self, batch: Batch, with_squares: bool = False) -> LossSums:
        """Sums of the loss over this batch's targets, and their counts. The head runs on rows with a target alone.
        `with_squares` adds what a z-loss needs."""
        row_R = target_rows(batch)
        parts = []
        for part in self.head_rows(batch, row_R):
            next_R = row_R[part.chosen] + 1
            source_R = None if batch.source_N is None else batch.source_N[next_R]
            parts.append(HeadTargets(part.head, part.states[part.index], batch.ids_N[next_R], source_R))
        return sum_losses(parts, self.vocabulary, batch.num_sources, with_squares)

    def logits(self, batch: Batch) -> torch.Tensor:
        """[N, V]: row i is the prediction of element i + 1 of the same document; -inf outside the row's modality.

        Under FSDP, register it with `torch.distributed.fsdp.register_fsdp_forward_method(model, "logits")`.
        """
        parts = self.head_rows(batch, torch.arange(len(batch.ids_N), device=batch.ids_N.device))
        logits_NV = parts[0].states.new_empty(len(batch.ids_N), self.vocabulary.size)
        for part in parts:
            logits_NV[part.chosen] = part.head.joint_logits(part.states[part.index])
        return logits_NV

    def make_state(self, num_rows: int, capacity: int, packed: bool = False) -> Any:
        """Empty caches for `num_rows` sequences; `capacity` latents are expected (more are allowed). The state reads the weights
        as they are now; `packed` copies them into a layout that is faster to generate with (see `model.network.stepping`).
        """
        raise NotImplementedError

    def step(self, state: Any, ids_B: np.ndarray, begins_B: np.ndarray, closed_B: np.ndarray) -> torch.Tensor:
        """Feed one element to every row and predict the next: logits [B, V], as `logits` would give them.

        `begins_B`: the element begins a latent; `closed_B`: its latent is now known to be complete (`Batch.closed_N`). Under
        `conditioning: paper`, closed means that the next element begins a latent. Rows whose id is PAD stand still; their
        logits are -inf. Bookkeeping is done on the host, hence arrays.
        """
        raise NotImplementedError

    def joint_rows(self, parts: list[tuple[HeadSteps, torch.Tensor, np.ndarray]], num_rows: int) -> torch.Tensor:
        """Logits [num_rows, V] from (head, states, rows); -inf in rows that nobody predicts."""
        parts = [part for part in parts if len(part[2])]
        if len(parts) == 1 and len(parts[0][2]) == num_rows:
            return parts[0][0](parts[0][1])
        weight = next(self.parameters())
        logits_BV = weight.new_full((num_rows, self.vocabulary.size), float("-inf"))
        for head, states, rows in parts:
            logits_BV[torch.as_tensor(rows, device=weight.device)] = head(states)
        return logits_BV

    def head_steps(self, num_rows: int, packed: bool) -> dict[Share, HeadSteps]:
        """The heads by what they predict, with room for the logits of `num_rows` rows."""
        return {
            head.share: HeadSteps(head, packed, num_rows)
            for head in self.heads.values()
            if isinstance(head, OutputHead)
        }

    def make_ngrams(self, dim: int) -> NgramEmbedding | None:
        """The embeddings of the last units, where the configuration has them."""
        wanted = self.config.ngrams
        return None if wanted is None else NgramEmbedding(wanted.sizes, wanted.buckets, dim)

    def make_history(self, num_rows: int) -> UnitHistory | None:
        """What generation remembers for them."""
        return None if self.ngrams is None else UnitHistory.empty(num_rows, max(self.ngrams.sizes))

    def ngrams_of(self, history: UnitHistory | None, rows_X: np.ndarray) -> torch.Tensor | float:
        """What they add in these rows: [X, D], or 0."""
        if self.ngrams is None or history is None:
            return 0.0
        device = self.ngrams.embedding.weight.device
        window_XM, age_X = (torch.as_tensor(part[rows_X], device=device) for part in (history.ids_BM, history.age_B))
        return self.ngrams.look_up(window_XM, age_X)

    def make_heads(self, shares: dict[Share, int]) -> nn.ModuleDict:
        """Output heads by share, each with the width that it reads."""
        return nn.ModuleDict(
            {share: OutputHead(dim, self.config.norm_eps, self.vocabulary, share) for share, dim in shares.items()}
        )

    def head(self, share: Share) -> OutputHead:
        """The head of this share of the vocabulary."""
        module = self.heads[share]
        assert isinstance(module, OutputHead)
        return module


def split_rows(
    heads: dict[Share, HeadSteps], x_XD: torch.Tensor, rows_X: np.ndarray, speech_X: np.ndarray
) -> list[tuple[HeadSteps, torch.Tensor, np.ndarray]]:
    """The rows of each head, for `joint_rows`, where there is one head per modality."""
    if speech_X.all() or not speech_X.any():
        return [(heads["units" if speech_X.any() else "text"], x_XD, rows_X)]
    chosen: dict[Share, np.ndarray] = {"text": ~speech_X, "units": speech_X}
    return [
        (heads[share], x_XD[torch.as_tensor(of_share, device=x_XD.device)], rows_X[of_share])
        for share, of_share in chosen.items()
    ]
