"""Hash embeddings of the last units: what a unit means after the two, three, four before it (BLT, arXiv 2412.09871, eq. 3 and 4).

For each n of `sizes`, the last n units of a speech span are hashed into one of `buckets` rows of a table; its vector is added to
the unit's own. Nothing ahead is read, and nothing before the span, the document or the packed piece; where there are fewer than
n units, that table adds nothing. The tables cost parameters and a look-up, and no products.

Shape suffixes: N elements, X rows that take part in a step, B rows of a batch, M units of the longest n-gram, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

FACTOR = 6364136223846793005
"""Knuth's multiplier for 64 bits; products wrap round."""


class NgramEmbedding(nn.Module):
    """One table for all sizes: those of the i-th are rows i * buckets and on."""

    def __init__(self, sizes: tuple[int, ...], buckets: int, dim: int) -> None:
        super().__init__()
        self.sizes, self.buckets = sizes, buckets
        self.embedding = nn.Embedding(len(self.sizes) * self.buckets, dim)

    def forward(self, ids_N: torch.Tensor, is_unit_N: torch.Tensor, doc_id_N: torch.Tensor) -> torch.Tensor:
        """What is added to each element: [N, D], 0 where it is no unit."""
        longest = max(self.sizes)
        before = ids_N.new_zeros(longest - 1)
        window_NM = torch.cat([before, ids_N]).unfold(0, longest, 1)
        return self.look_up(window_NM, span_age(is_unit_N, doc_id_N))

    def look_up(self, window_XM: torch.Tensor, age_X: torch.Tensor) -> torch.Tensor:
        """[X, D] for the last M ids of each row, the newest last, of which the last `age_X` are units of one span."""
        parts = []
        for i, size in enumerate(self.sizes):
            row_X = hashed(window_XM[:, -size:]) % self.buckets + i * self.buckets
            parts.append(self.embedding(row_X) * (age_X >= size)[:, None])
        return torch.stack(parts).sum(0)


def hashed(ids_XM: torch.Tensor) -> torch.Tensor:
    """int64 [X], not negative."""
    key_X = torch.zeros_like(ids_XM[:, 0])
    for id_X in ids_XM.unbind(1):
        key_X = (key_X + id_X + 1) * FACTOR
    return (key_X >> 33) & 0x7FFFFFFF  # the low bits of such a product are poor


def span_age(is_unit_N: torch.Tensor, doc_id_N: torch.Tensor) -> torch.Tensor:
    """int64 [N]: units of the same span up to each element, itself included; 0 where it is no unit."""
    place_N = torch.arange(len(is_unit_N), device=is_unit_N.device)
    goes_on_N = torch.zeros_like(is_unit_N)
    goes_on_N[1:] = is_unit_N[:-1] & (doc_id_N[1:] == doc_id_N[:-1])
    start_N = torch.where(is_unit_N & goes_on_N, 0, place_N).cummax(0).values
    return torch.where(is_unit_N, place_N - start_N + 1, 0)


@dataclass(eq=False)
class UnitHistory:
    """In generation: the last units of each row's open span."""

    ids_BM: np.ndarray
    age_B: np.ndarray

    @staticmethod
    def empty(num_rows: int, longest: int) -> UnitHistory:
        """No row has seen a unit."""
        return UnitHistory(np.zeros((num_rows, longest), dtype=np.int64), np.zeros(num_rows, dtype=np.int64))

    def observe(self, rows_X: np.ndarray, ids_X: np.ndarray, is_unit_X: np.ndarray) -> None:
        """One element more in each of these rows."""
        self.ids_BM[rows_X, :-1] = self.ids_BM[rows_X, 1:]
        self.ids_BM[rows_X, -1] = ids_X
        self.age_B[rows_X] = np.where(is_unit_X, self.age_B[rows_X] + 1, 0)
