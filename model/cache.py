"""Caches for generation: keys and values of what a row may still read, one ring of places per row of the batch.

Rows of a batch advance at their own pace: every operation takes the rows that take part in it. The layers of a stack share places
and masks, which are worked out once per step.

Shape suffixes: B rows of the batch, R rows that take part, J entries per row, T places of the ring, H heads, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class View:
    """What rows may read: the same for every layer."""

    rows_R: torch.Tensor | None
    """None: all rows, in order, which are then read without a copy."""
    used: int
    """Places beyond it are empty."""
    mask_R11T: torch.Tensor
    empty_R111: torch.Tensor | None
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
    ) -> None:
        """`heads`: number and width."""
        shape = (num_rows, capacity, *heads)
        self.keys = [like.new_zeros(shape) for _ in range(num_layers)]
        """[B, T, H, K] per layer."""
        self.values = [like.new_zeros(shape) for _ in range(num_layers)]
        self.tag_BT = torch.full((num_rows, capacity), -1, dtype=torch.int64, device=like.device)
        self.count_B = torch.zeros(num_rows, dtype=torch.int64, device=like.device)
        self.window, self.longest = window, 0

    @property
    def capacity(self) -> int:
        """T."""
        return self.tag_BT.shape[1]

    def reserve(self, rows_R: torch.Tensor, tag_R: torch.Tensor, entries: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Places for new entries of these rows, as an index (rows [R, 1], places [R, J]) for `write`."""
        rows_R1, tag_R1 = rows_R[:, None], tag_R[:, None]
        order_J = torch.arange(entries, device=rows_R.device)
        place_RJ = (self.count_B[rows_R1] + order_J) % self.capacity
        if self.longest + entries > self.capacity and self._readable(self.tag_BT[rows_R1, place_RJ], tag_R1).any():
            self._grow()
            return self.reserve(rows_R, tag_R, entries)
        self.tag_BT[rows_R1, place_RJ] = tag_R1
        self.count_B[rows_R] += entries
        self.longest = max(self.longest, int(self.count_B.max()))
        return rows_R1, place_RJ

    def write(
        self, layer: int, place: tuple[torch.Tensor, torch.Tensor], k_RJHK: torch.Tensor, v_RJHK: torch.Tensor
    ) -> None:
        """Fill the reserved places of a layer."""
        self.keys[layer][place] = k_RJHK
        self.values[layer][place] = v_RJHK

    def view(self, rows_R: torch.Tensor, tag_R: torch.Tensor) -> View:
        """What these rows may read where `tag_R` is the newest tag."""
        used = min(self.longest, self.capacity)
        rows = None if len(rows_R) == len(self.tag_BT) else rows_R  # rows are distinct and ordered
        tag_RT = self.tag_BT[:, :used] if rows is None else self.tag_BT[rows, :used]
        readable_RT = self._readable(tag_RT, tag_R[:, None])
        empty_R = ~readable_RT.any(1)
        if not empty_R.any():
            return View(rows, used, readable_RT[:, None, None], None)
        return View(rows, used, (readable_RT | empty_R[:, None])[:, None, None], empty_R[:, None, None, None])

    def attend(self, layer: int, view: View, q_RJHK: torch.Tensor) -> torch.Tensor:
        """Attention of J queries per row over what the view shows: [R, J, H, K]."""
        k_RTHK, v_RTHK = (
            ring[:, : view.used] if view.rows_R is None else ring[view.rows_R, : view.used]
            for ring in (self.keys[layer], self.values[layer])
        )
        out_RJHK = F.scaled_dot_product_attention(
            q_RJHK.transpose(1, 2),
            k_RTHK.transpose(1, 2),
            v_RTHK.transpose(1, 2),
            attn_mask=view.mask_R11T,
            enable_gqa=q_RJHK.shape[2] != k_RTHK.shape[2],
        ).transpose(1, 2)
        return out_RJHK if view.empty_R111 is None else out_RJHK.masked_fill(view.empty_R111, 0)

    def _readable(self, tag: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
        within = (tag >= 0) & (tag <= newest)
        return within if self.window is None else within & (tag > newest - self.window)

    def _grow(self) -> None:
        """Twice the places. Entries stay where they are: tags, not places, say what is readable."""
        capacity = self.capacity
        self.keys, self.values = (
            [torch.cat([x, torch.zeros_like(x)], dim=1) for x in y] for y in (self.keys, self.values)
        )
        self.tag_BT = torch.cat([self.tag_BT, torch.full_like(self.tag_BT, -1)], dim=1)
        self.count_B.clamp_(max=capacity)
        self.longest = min(self.longest, capacity)
