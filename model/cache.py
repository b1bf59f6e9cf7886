"""Caches for generation: keys and values of what a row may still read, one ring per row of the batch.

Rows of a batch advance at their own pace: every operation takes the rows that take part in it.

Shape suffixes: B rows of the batch, R rows that take part, T places of the ring, H heads, K head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


class Cache:
    """Keys and values with a tag each (a position or a latent's number); an entry is readable while its tag is within
    `window` of the newest tag of its row, for ever where `window` is None.

    `capacity` entries are kept; where more than that may be readable at once, pass `grows`.
    """

    def __init__(
        self,
        num_rows: int,
        num_heads: int,
        head_dim: int,
        capacity: int,
        window: int | None,
        grows: bool,
        like: torch.Tensor,
    ) -> None:
        self.k_BTHK = like.new_zeros(num_rows, capacity, num_heads, head_dim)
        self.v_BTHK = torch.zeros_like(self.k_BTHK)
        self.tag_BT = torch.full((num_rows, capacity), -1, dtype=torch.int64, device=like.device)
        self.count_B = torch.zeros(num_rows, dtype=torch.int64, device=like.device)
        self.longest = 0
        """Of count_B: places beyond it are empty in every row."""
        self.window, self.grows = window, grows

    def append(self, rows_R: torch.Tensor, k_RHK: torch.Tensor, v_RHK: torch.Tensor, tag_R: torch.Tensor) -> None:
        """One entry for each of these rows."""
        place_R = self.count_B[rows_R] % self.k_BTHK.shape[1]
        if self.grows and self._readable(self.tag_BT[rows_R, place_R], tag_R).any():
            self._grow()
            place_R = self.count_B[rows_R]
        self.k_BTHK[rows_R, place_R] = k_RHK
        self.v_BTHK[rows_R, place_R] = v_RHK
        self.tag_BT[rows_R, place_R] = tag_R
        self.count_B[rows_R] += 1
        self.longest = max(self.longest, int(self.count_B[rows_R].max())) if len(rows_R) else self.longest

    def attend(self, rows_R: torch.Tensor, q_RHK: torch.Tensor, tag_R: torch.Tensor) -> torch.Tensor:
        """Attention of one query per row over what is readable where the newest tag is `tag_R`; zero where nothing is.

        Queries may have several vectors per row as [R, J, H, K]; the result has the shape of the queries.
        """
        used = min(self.longest, self.k_BTHK.shape[1])
        all_rows = len(rows_R) == len(self.k_BTHK)  # rows are distinct and ordered: then these are all, uncopied
        k_RTHK, v_RTHK, tag_RT = (
            ring[:, :used] if all_rows else ring[rows_R, :used] for ring in (self.k_BTHK, self.v_BTHK, self.tag_BT)
        )
        readable_RT = self._readable(tag_RT, tag_R[:, None])
        q_RJHK = q_RHK if q_RHK.ndim == 4 else q_RHK[:, None]
        empty_R = ~readable_RT.any(1)
        out = F.scaled_dot_product_attention(
            q_RJHK.transpose(1, 2),
            k_RTHK.transpose(1, 2),
            v_RTHK.transpose(1, 2),
            attn_mask=(readable_RT | empty_R[:, None])[:, None, None],
            enable_gqa=q_RJHK.shape[2] != k_RTHK.shape[2],
        ).transpose(1, 2)
        return out.masked_fill(empty_R[:, None, None, None], 0).reshape(q_RHK.shape)

    def _readable(self, tag: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
        within = (tag >= 0) & (tag <= newest)
        return within if self.window is None else within & (tag > newest - self.window)

    def _grow(self) -> None:
        """Twice the places, the entries of each row in the order in which they came."""
        capacity = self.k_BTHK.shape[1]
        order_BT = (self.count_B[:, None] + torch.arange(capacity, device=self.count_B.device)) % capacity
        order_BT = torch.where(
            self.count_B[:, None] < capacity, torch.arange(capacity, device=order_BT.device), order_BT
        )
        row_B1 = torch.arange(len(order_BT), device=order_BT.device)[:, None]
        for name, empty in (("k_BTHK", 0), ("v_BTHK", 0), ("tag_BT", -1)):
            ring = getattr(self, name)[row_B1, order_BT]
            setattr(self, name, torch.cat([ring, torch.full_like(ring, empty)], dim=1))
        self.count_B.clamp_(max=capacity)
        self.longest = capacity
