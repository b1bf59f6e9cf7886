"""Attention over intervals: every attention of the model lets query i read the keys of one interval [lo_i, hi_i].

Windowed self-attention, document-causal attention over latents and both cross-attentions have this form, so the 1-D
schema is all that a mask needs. Backends: `dense` (SDPA with the boolean mask: the reference), `blocks` (exact tiles of
128 queries against the keys they can reach: the CPU path), `flex` (FlexAttention) and `varlen` (torch's variable-length
flash attention, for self-attention alone; cross-attention then takes `flex`) on CUDA.

Memory beyond q, k, v and out: `dense` Q x M booleans; `blocks` one H x 128 x (reach of a tile) tile of scores and at most
32 MiB of kept probabilities per call, plus the distinct mask tiles (shared between layers; interior tiles of a window are one
and the same).

Shape suffixes: Q queries, M keys, H heads, G key-value heads, K head width, C queries of a tile.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from model.network.layers.backend import Backend
from model.network.layers.flex import SMALLEST_HEAD, attend_flex, block_mask

TILE = 128
"""Most queries of a tile: best in bf16 on a 2-core AVX-512 machine; in fp32 half of it, so that a tile's scores stay in L2."""

KEPT_BYTES = 2**25
"""A call whose probabilities take more than this computes them again in the backward pass; keeping them saves a sixth of it."""


@dataclass(frozen=True)
class Tile:
    """Queries [start, stop) against keys [key_start, key_stop)."""

    start: int
    stop: int
    key_start: int
    key_stop: int
    bias_CM: torch.Tensor | None
    """0 where allowed, else -inf; None where every pair is allowed. Rows without any key are 0 (see `dead_C`)."""
    dead_C: torch.Tensor | None
    """bool: queries without any key, whose output is zero; None where there are none."""


@dataclass(eq=False, kw_only=True)
class Intervals:
    """Which keys each query may read: lo_i <= key <= hi_i, nothing where hi_i < lo_i (the output is then zero)."""

    lo_Q: torch.Tensor
    hi_Q: torch.Tensor
    num_keys: int
    window: int | None = None
    """Set for self-attention alone: the reach, which `varlen` needs (with `starts_Q`)."""
    starts_Q: torch.Tensor | None = None
    """bool, for self-attention alone: a document (or the padding) begins at this query."""
    block_mask: Any = None
    """FlexAttention's description of the pattern, once `plan` has made it."""
    _tiles: dict[torch.dtype, list[Tile]] = field(default_factory=dict)

    def per_vector(self, queries: int = 1, keys: int = 1) -> Intervals:
        """The same pattern where each query (or key) stands for several vectors in a row."""
        lo_Q, hi_Q = self.lo_Q * keys, self.hi_Q * keys + keys - 1
        return Intervals(
            lo_Q=lo_Q.repeat_interleave(queries), hi_Q=hi_Q.repeat_interleave(queries), num_keys=self.num_keys * keys
        )

    def of_queries(self, row_E: torch.Tensor) -> Intervals:
        """The pattern of these queries alone, over all keys."""
        return Intervals(lo_Q=self.lo_Q[row_E], hi_Q=self.hi_Q[row_E], num_keys=self.num_keys)

    def among(self, row_E: torch.Tensor) -> Intervals:
        """The pattern of self-attention among these elements alone (ascending): keys that are left out are not read."""
        assert self.starts_Q is not None
        document_E = self.starts_Q.cumsum(0)[row_E]
        return Intervals(
            lo_Q=torch.searchsorted(row_E, self.lo_Q[row_E]),
            hi_Q=torch.searchsorted(row_E, self.hi_Q[row_E], right=True) - 1,
            num_keys=len(row_E),
            window=self.window,
            starts_Q=torch.diff(document_E, prepend=document_E.new_full((1,), -1)) != 0,
        )

    def count_pairs(self) -> int:
        """Query-key pairs that are computed where nothing is wasted."""
        return int((self.hi_Q - self.lo_Q + 1).clamp(min=0).sum())

    def dense_mask(self) -> torch.Tensor:
        """bool [Q, M]."""
        key_M = torch.arange(self.num_keys, device=self.lo_Q.device)
        return (key_M >= self.lo_Q[:, None]) & (key_M <= self.hi_Q[:, None])

    def tiles(self, dtype: torch.dtype) -> list[Tile]:
        """The plan of the `blocks` backend, made once per step and dtype."""
        if dtype not in self._tiles:
            self._tiles[dtype] = _plan_tiles(self.lo_Q.cpu().numpy(), self.hi_Q.cpu().numpy(), dtype)
        return self._tiles[dtype]

    def plan(self, backend: Backend) -> Intervals:
        """Itself, with what the CUDA backends need beside the intervals. Outside compiled code, once per batch."""
        wanted = backend == "flex" or (backend != "dense" and self.lo_Q.is_cuda)
        if wanted and self.block_mask is None:
            self.block_mask = block_mask(self.lo_Q, self.hi_Q, self.num_keys)
        return self

    @functools.cached_property
    def cumulative_lengths(self) -> tuple[torch.Tensor, int]:
        """int32 [documents + 1] offsets and the longest length, for `varlen`."""
        assert self.starts_Q is not None
        starts = self.starts_Q.nonzero().squeeze(-1)
        offsets = torch.cat([starts, starts.new_tensor([len(self.lo_Q)])])
        return offsets.to(torch.int32), int(offsets.diff().max())


def self_intervals(start_Q: torch.Tensor, valid_Q: torch.Tensor, window: int | None) -> Intervals:
    """Causal attention within documents: `start_Q` is the index at which the query's document begins.

    With a window, a query reads itself and the `window - 1` before it. Queries that are not valid read nothing.
    """
    index_Q = torch.arange(len(start_Q), device=start_Q.device)
    lo_Q = start_Q if window is None else torch.maximum(start_Q, index_Q - window + 1)
    hi_Q = torch.where(valid_Q, index_Q, lo_Q - 1)
    starts_Q = (start_Q == index_Q) & valid_Q
    starts_Q = starts_Q | (~valid_Q & (torch.cat([valid_Q.new_ones(1), valid_Q[:-1]])))
    return Intervals(lo_Q=lo_Q, hi_Q=hi_Q, num_keys=len(start_Q), window=window or len(start_Q), starts_Q=starts_Q)


def attend(
    q_QHK: torch.Tensor, k_MGK: torch.Tensor, v_MGK: torch.Tensor, intervals: Intervals, backend: Backend = "auto"
) -> torch.Tensor:
    """Softmax attention of each query over its interval of keys, scaled by K ** -0.5; [Q, H, K].

    Fewer key-value heads than query heads are shared in groups, as in Llama.
    """
    backend = _resolve(backend, q_QHK)
    groups = q_QHK.shape[1] // k_MGK.shape[1]
    if groups > 1:
        k_MGK, v_MGK = k_MGK.repeat_interleave(groups, dim=1), v_MGK.repeat_interleave(groups, dim=1)
    if backend == "varlen" and intervals.starts_Q is not None:
        return _attend_varlen(q_QHK, k_MGK, v_MGK, intervals)
    if backend == "dense":
        return _attend_dense(q_QHK, k_MGK, v_MGK, intervals)
    if backend == "blocks":
        out_QHK: torch.Tensor = _TiledAttention.apply(q_QHK, k_MGK, v_MGK, intervals.tiles(q_QHK.dtype))
        return out_QHK
    if not torch.compiler.is_compiling():
        intervals.plan("flex")
    assert intervals.block_mask is not None or not (intervals.num_keys and len(intervals.lo_Q)), "not planned"
    return attend_flex(q_QHK, k_MGK, v_MGK, intervals.block_mask)


def _resolve(backend: Backend, q_QHK: torch.Tensor) -> Backend:
    """What `auto` means: tiles on CPU; on CUDA FlexAttention, but for fp64 and for heads that are too narrow for its kernel."""
    if backend != "auto":
        return backend
    if not q_QHK.is_cuda:
        return "blocks"
    return "dense" if q_QHK.dtype == torch.float64 or q_QHK.shape[2] < SMALLEST_HEAD else "flex"


def _attend_dense(q_QHK: torch.Tensor, k_MHK: torch.Tensor, v_MHK: torch.Tensor, intervals: Intervals) -> torch.Tensor:
    mask_QM = intervals.dense_mask()
    alive_Q = mask_QM.any(-1)
    out_HQK = F.scaled_dot_product_attention(
        q_QHK.transpose(0, 1)[None],
        k_MHK.transpose(0, 1)[None],
        v_MHK.transpose(0, 1)[None],
        attn_mask=mask_QM | ~alive_Q[:, None],
    )[0]
    return out_HQK.transpose(0, 1) * alive_Q[:, None, None]


def _plan_tiles(lo_Q: np.ndarray, hi_Q: np.ndarray, dtype: torch.dtype) -> list[Tile]:
    shared: dict[bytes, torch.Tensor | None] = {}
    tiles = []
    size = TILE if dtype.itemsize == 2 else TILE // 2
    for start in range(0, len(lo_Q), size):
        lo_C, hi_C = lo_Q[start : start + size], hi_Q[start : start + size]
        alive_C = hi_C >= lo_C
        if not alive_C.any():
            continue
        first, last = int(lo_C[alive_C].min()), int(hi_C[alive_C].max()) + 1
        lo_C, hi_C = np.where(alive_C, lo_C - first, 0), np.where(alive_C, hi_C - first, last - first)
        key = np.concatenate([lo_C, hi_C, [last - first]]).tobytes()
        if key not in shared:
            key_M = np.arange(last - first)
            refused_CM = torch.from_numpy((key_M < lo_C[:, None]) | (key_M > hi_C[:, None]))
            bias_CM = torch.zeros(refused_CM.shape, dtype=dtype).masked_fill_(refused_CM, float("-inf"))
            shared[key] = bias_CM if refused_CM.any() else None
        dead_C = None if alive_C.all() else torch.from_numpy(~alive_C)
        tiles.append(Tile(start, start + len(lo_C), first, last, shared[key], dead_C))
    return tiles


class _TiledAttention(torch.autograd.Function):
    """Exact attention tile by tile. Probabilities are kept for the backward pass while they are few, else computed again.

    Plain batched products: in bf16 on CPU they are twice as fast as SDPA, in fp32 as fast.
    """

    @staticmethod
    def forward(
        ctx: Any, q_QHK: torch.Tensor, k_MHK: torch.Tensor, v_MHK: torch.Tensor, tiles: list[Tile]
    ) -> torch.Tensor:
        out_QHK = torch.zeros_like(q_QHK, memory_format=torch.contiguous_format)
        q_HQK, k_HMK, v_HMK = (x.transpose(0, 1).contiguous() for x in (q_QHK, k_MHK, v_MHK))
        out_HQK = out_QHK.transpose(0, 1)
        pairs = sum((tile.stop - tile.start) * (tile.key_stop - tile.key_start) for tile in tiles)
        keep = any(ctx.needs_input_grad) and pairs * len(q_HQK) * q_QHK.itemsize <= KEPT_BYTES
        kept: list[torch.Tensor] = []
        for tile in tiles:
            rows, keys = slice(tile.start, tile.stop), slice(tile.key_start, tile.key_stop)
            p_HCM = _probabilities(q_HQK[:, rows], k_HMK[:, keys], tile)
            kept += [p_HCM] * keep
            out_HCK = torch.bmm(p_HCM, v_HMK[:, keys])
            if tile.dead_C is not None:
                out_HCK[:, tile.dead_C] = 0
            out_HQK[:, rows] = out_HCK
        ctx.save_for_backward(q_HQK, k_HMK, v_HMK, out_QHK, *kept)
        ctx.tiles = tiles
        return out_QHK

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_QHK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        saved, kept = (tensors := ctx.saved_tensors)[:4], tensors[4:]  # recomputation allows one reading
        q_HQK, k_HMK, v_HMK, out_QHK = saved
        mean_HQ1 = (grad_QHK * out_QHK).sum(-1, keepdim=True).transpose(0, 1)
        grad_HQK = grad_QHK.transpose(0, 1).contiguous()
        dq_HQK, dk_HMK, dv_HMK = (torch.zeros_like(x) for x in (q_HQK, k_HMK, v_HMK))
        scale = q_HQK.shape[-1] ** -0.5
        for index, tile in enumerate(ctx.tiles):
            rows, keys = slice(tile.start, tile.stop), slice(tile.key_start, tile.key_stop)
            grad_HCK = grad_HQK[:, rows]
            if tile.dead_C is not None:
                grad_HCK = grad_HCK.masked_fill(tile.dead_C[:, None], 0)
            p_HCM = kept[index] if kept else _probabilities(q_HQK[:, rows], k_HMK[:, keys], tile)
            dv_HMK[:, keys] += torch.bmm(p_HCM.transpose(1, 2), grad_HCK)
            ds_HCM = torch.bmm(grad_HCK, v_HMK[:, keys].transpose(1, 2)).sub_(mean_HQ1[:, rows]).mul_(p_HCM)
            torch.bmm(ds_HCM, k_HMK[:, keys], out=dq_HQK[:, rows])
            dk_HMK[:, keys] += torch.bmm(ds_HCM.transpose(1, 2), q_HQK[:, rows]).mul_(scale)
        return dq_HQK.mul_(scale).transpose(0, 1), dk_HMK.transpose(0, 1), dv_HMK.transpose(0, 1), None


def _probabilities(q_HCK: torch.Tensor, k_HMK: torch.Tensor, tile: Tile) -> torch.Tensor:
    scale = q_HCK.shape[-1] ** -0.5
    k_HKM = k_HMK.transpose(1, 2)
    if tile.bias_CM is None:
        scores_HCM = torch.bmm(q_HCK, k_HKM).mul_(scale)
    else:
        scores_HCM = torch.baddbmm(tile.bias_CM.expand(len(q_HCK), -1, -1), q_HCK, k_HKM, alpha=scale)
    return torch.softmax(scores_HCM, dim=-1)


def _attend_varlen(q_QHK: torch.Tensor, k_MHK: torch.Tensor, v_MHK: torch.Tensor, intervals: Intervals) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    assert intervals.window is not None
    offsets, longest = intervals.cumulative_lengths
    reach = (intervals.window - 1, 0)
    out_QHK = varlen_attn(q_QHK, k_MHK, v_MHK, offsets, offsets, longest, longest, window_size=reach)
    assert isinstance(out_QHK, torch.Tensor)
    return out_QHK * (intervals.hi_Q >= intervals.lo_Q)[:, None, None]
