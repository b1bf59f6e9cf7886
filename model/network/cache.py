"""Caches for generation: keys and values of what a row may still read, one ring of places per row of the batch.

Rows of a batch advance at their own pace: every operation takes the rows that take part in it. What decides (places, tags,
who may read what) lives on the host; while all rows stand at the same place, which is the rule, writing is one copy per layer
and reading needs neither copies nor masks. The layers of a stack share places and masks, worked out once per step.

Shape suffixes: B rows of the batch, R rows that take part, J entries per row, T places of the ring, G key-value heads,
Q queries per head, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class CacheSlots:
    """Where new entries go: the same for every layer."""

    keys: tuple[torch.Tensor, ...] = ()
    """Per layer the view [B, G, K, J] to fill, where all rows write the same places; else empty."""
    values: tuple[torch.Tensor, ...] = ()
    """Per layer [B, G, J, K]."""
    first: int = 0
    """The first of those places."""
    rows_R1: torch.Tensor | None = None
    places_RJ: torch.Tensor | None = None


@dataclass(frozen=True)
class View:
    """What rows may read: the same for every layer."""

    keys: tuple[torch.Tensor, ...]
    """Per layer [B * G, K, T], where all rows read; else empty: `rows_R` are then copied out."""
    values: tuple[torch.Tensor, ...]
    """Per layer [B * G, T, K]."""
    rows_R: torch.Tensor | None
    used: int
    """Places beyond it are empty."""
    bias_X1T: torch.Tensor | None
    """0 where a row may read, else -inf, for each row and head (X = R * G); None: all may read all."""
    empty_R1: torch.Tensor | None
    """bool: rows that may read nothing, whose output is zero; None where there are none."""


class Cache:
    """Keys and values of the layers of a stack. Each entry has a tag (a position or a latent's number) and is readable while
    its tag is within `window` of the newest tag of its row, for ever where `window` is None.

    Where more than `capacity` entries turn out to be readable at once, the rings double.
    """

    def __init__(
        self,
        num_layers: int,
        num_rows: int,
        heads: tuple[int, int],
        capacity: int,
        window: int | None,
        like: torch.Tensor,
        per_tag: int | None = None,
    ) -> None:
        """`heads`: number and width. `per_tag`: entries under each tag, where that number is always the same."""
        self.keys = like.new_zeros(num_layers, num_rows, heads[0], heads[1], capacity)
        """[layers, B, G, K, T]: places last, since a product in bf16 on CPU otherwise transposes all of them at every call."""
        self.values = like.new_zeros(num_layers, num_rows, heads[0], capacity, heads[1])
        """[layers, B, G, T, K]."""
        self.tag_BT = np.full((num_rows, capacity), -1, dtype=np.int64)
        self.count_B = np.zeros(num_rows, dtype=np.int64)
        self.window = window
        self._even: int | None = 0
        """The rows' count, as long as all rows have always taken part."""
        self._all_readable = window is None or (per_tag is not None and capacity == window * per_tag)
        """Whether a ring holds nothing but what may be read, while the rows are even."""
        self.scale = heads[1] ** -0.5
        self._nothing = like.new_zeros(1, 1, 1)
        self._arrays: tuple[torch.Tensor, np.ndarray, np.ndarray] | None = None

    @property
    def capacity(self) -> int:
        """T."""
        return self.tag_BT.shape[1]

    @property
    def heads(self) -> int:
        """G."""
        return int(self.keys.shape[2])

    @property
    def nbytes(self) -> int:
        """Of keys and values."""
        return int(self.keys.nbytes + self.values.nbytes)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys [layers, B, G, K, T] and values [layers, B, G, T, K] as arrays over the same memory; on CPU, in fp32."""
        if self._arrays is None or self._arrays[0] is not self.keys:
            self._arrays = (self.keys, self.keys.numpy(), self.values.numpy())
        return self._arrays[1], self._arrays[2]

    def reserve(self, rows_R: np.ndarray, tag_R: np.ndarray, entries: int = 1) -> CacheSlots:
        """Places for `entries` more of each of these rows (distinct, ordered), all of the row's tag in `tag_R`."""
        if len(rows_R) < len(self.tag_BT):
            self._even = None
        if self._even is not None and self._all_readable:
            return self._reserve_evenly(tag_R, entries)
        count_R = self.count_B[rows_R]
        place_RJ = (count_R[:, None] + np.arange(entries)) % self.capacity
        if (
            count_R.max(initial=0) + entries > self.capacity
            and self._readable(self.tag_BT[rows_R[:, None], place_RJ], tag_R[:, None]).any()
        ):
            self._grow()
            return self.reserve(rows_R, tag_R, entries)
        self.tag_BT[rows_R[:, None], place_RJ] = tag_R[:, None]
        self.count_B[rows_R] += entries
        first = int(place_RJ[0, 0])
        if len(rows_R) == len(self.tag_BT) and first + entries <= self.capacity and (count_R == count_R[0]).all():
            return self._place(first, entries)
        rows_R1, places_RJ = (torch.as_tensor(x, device=self.keys.device) for x in (rows_R[:, None], place_RJ))
        return CacheSlots(rows_R1=rows_R1, places_RJ=places_RJ)

    def begin_with(self, tags: Sequence[np.ndarray]) -> list[int]:
        """Give an empty cache the entries of these tags, oldest first, for each row; `fill` brings what they hold. Returns for
        each row the first entry that is kept."""
        assert not self.count_B.any()
        while max(int(self._readable(tag, tag[-1:]).sum()) if len(tag) else 0 for tag in tags) > self.capacity:
            self._grow()
        firsts = [max(0, len(tag) - self.capacity) for tag in tags]
        for row, (tag, first) in enumerate(zip(tags, firsts, strict=True)):
            self.tag_BT[row, np.arange(first, len(tag)) % self.capacity] = tag[first:]
            self.count_B[row] = len(tag)
        self._even = int(self.count_B[0]) if (self.count_B == self.count_B[0]).all() else None
        return firsts

    def fill(self, layer: int, row: int, first: int, k_EGK: torch.Tensor, v_EGK: torch.Tensor) -> None:
        """What the entries from `first` on of a row hold in a layer."""
        place = torch.arange(first, first + len(k_EGK), device=self.keys.device) % self.capacity
        self.keys[layer, row][..., place] = k_EGK.permute(1, 2, 0).to(self.keys.dtype)
        self.values[layer, row][:, place] = v_EGK.transpose(0, 1).to(self.values.dtype)

    def _reserve_evenly(self, tag_B: np.ndarray, entries: int) -> CacheSlots:
        """`reserve` where all rows write the next places of rings that never need a look at what they overwrite."""
        assert self._even is not None
        while self.window is None and self._even + entries > self.capacity:
            self._grow()
        first = self._even % self.capacity
        assert first + entries <= self.capacity
        self._even += entries
        self.tag_BT[:, first : first + entries] = tag_B[:, None]
        self.count_B += entries
        return self._place(first, entries)

    def _place(self, first: int, entries: int) -> CacheSlots:
        past = first + entries
        return CacheSlots(self.keys[..., first:past].unbind(0), self.values[..., first:past, :].unbind(0), first)

    def write(self, layer: int, place: CacheSlots, kv_2RGJK: torch.Tensor) -> None:
        """Fill the reserved places of a layer."""
        k_RGJK, v_RGJK = kv_2RGJK.unbind(0)
        if place.keys:
            place.keys[layer].copy_(k_RGJK.transpose(2, 3))
            place.values[layer].copy_(v_RGJK)
        else:
            self.keys[layer][place.rows_R1, :, :, place.places_RJ] = k_RGJK.transpose(1, 2)
            self.values[layer][place.rows_R1, :, place.places_RJ] = v_RGJK.transpose(1, 2)

    def view(self, rows_R: np.ndarray, tag_R: np.ndarray) -> View:
        """What these rows may read where `tag_R` is the newest tag."""
        used = min(int(self.count_B.max()), self.capacity)
        everyone = len(rows_R) == len(self.tag_BT)
        if everyone and self._even is not None and self._all_readable:
            return self._view_all(used, None, None)
        readable_RT = self._readable(self.tag_BT[rows_R, :used], tag_R[:, None])
        bias_X1T = empty_R1 = None
        if not readable_RT.all():
            empty = np.logical_not(readable_RT.any(axis=1))
            # A row that may read nothing keeps finite scores, and `attend` sets what comes of them to zero: a softmax over
            # nothing but -inf would be NaN.
            bias = np.where(readable_RT | empty[:, None], 0.0, -np.inf).repeat(self.heads, axis=0)[:, None]
            bias_X1T = torch.as_tensor(bias, device=self.keys.device).to(self.keys.dtype)
            empty_R1 = torch.as_tensor(empty[:, None], device=self.keys.device) if empty.any() else None
        if not everyone:
            return View((), (), torch.as_tensor(rows_R, device=self.keys.device), used, bias_X1T, empty_R1)
        return self._view_all(used, bias_X1T, empty_R1)

    def _view_all(self, used: int, bias_X1T: torch.Tensor | None, empty_R1: torch.Tensor | None) -> View:
        k_LXKT, v_LXTK = self.keys[..., :used].flatten(1, 2), self.values[..., :used, :].flatten(1, 2)
        return View(k_LXKT.unbind(0), v_LXTK.unbind(0), None, used, bias_X1T, empty_R1)

    def attend(self, layer: int, view: View, q_XQK: torch.Tensor) -> torch.Tensor:
        """Attention of the Q queries of each row and key head over what the view shows: [R * G, Q, K].

        Plain products: with one query SDPA takes up to twice the time in fp32 on CPU, and four times in bf16.
        """
        if view.rows_R is None:
            k_XKT, v_XTK = view.keys[layer], view.values[layer]
        else:
            k_XKT = self.keys[layer][view.rows_R, :, :, : view.used].flatten(0, 1)
            v_XTK = self.values[layer][view.rows_R, :, : view.used].flatten(0, 1)
        if view.bias_X1T is None:
            # one call for product and scale; with beta 0 what would be added is not even read
            scores_XQT = torch.baddbmm(self._nothing, q_XQK, k_XKT, beta=0, alpha=self.scale)
        else:
            scores_XQT = torch.baddbmm(view.bias_X1T, q_XQK, k_XKT, alpha=self.scale)
        out_XQK = torch.bmm(torch.softmax(scores_XQT, dim=-1), v_XTK)
        if view.empty_R1 is None:
            return out_XQK
        return out_XQK.view(len(view.empty_R1), -1).masked_fill(view.empty_R1, 0).view_as(out_XQK)

    def _readable(self, tag: np.ndarray, newest: np.ndarray) -> np.ndarray:
        within: np.ndarray = (tag >= 0) & (tag <= newest)
        return within if self.window is None else within & (tag > newest - self.window)

    def _grow(self) -> None:
        """Twice the places. Entries stay where they are: tags, not places, say what is readable."""
        capacity = self.capacity
        self.keys = torch.cat([self.keys, torch.zeros_like(self.keys)], dim=4)
        self.values = torch.cat([self.values, torch.zeros_like(self.values)], dim=3)
        self.tag_BT = np.concatenate([self.tag_BT, np.full_like(self.tag_BT, -1)], axis=1)
        np.minimum(self.count_B, capacity, out=self.count_B)
        self._all_readable = self.window is None
