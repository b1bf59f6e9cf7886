"""FlexAttention over intervals, on CUDA: the blocks that a pattern touches come from `lo` and `hi` alone, on the device.

A block is 128 queries by 128 keys. It is *full* where each of its queries may read each of its keys (no mask is evaluated there),
*partial* where some may. Queries of a block share one range of blocks, so two comparisons replace the Q x M predicate that
`create_block_mask` evaluates (436 M booleans for the decoder's cross-attention of the 1B model).

Shape suffixes: Q queries, M keys, H heads, K head width, I blocks of queries, J blocks of keys.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128
"""Queries and keys of a tile, which is computed whole or left out: what the kernels are built for."""
SMALLEST_HEAD = 16
"""The kernel's narrowest head."""


def block_mask(lo_Q: torch.Tensor, hi_Q: torch.Tensor, num_keys: int) -> BlockMask | None:
    """The sparse description that FlexAttention takes; None where there are no queries or no keys."""
    if len(lo_Q) == 0 or num_keys == 0:
        return None
    num_query_blocks, num_key_blocks = -(-len(lo_Q) // BLOCK), -(-num_keys // BLOCK)

    def by_block(values_Q: torch.Tensor, empty: int) -> torch.Tensor:
        values_Q = torch.where(hi_Q >= lo_Q, values_Q, empty)
        padding = num_query_blocks * BLOCK - len(values_Q)
        return F.pad(values_Q, (0, padding), value=empty).view(num_query_blocks, BLOCK)

    lowest_I, highest_I = by_block(lo_Q, num_keys).amin(1, keepdim=True), by_block(hi_Q, -1).amax(1, keepdim=True)
    # a query that reads nothing leaves no block of its row full
    last_lo_I, first_hi_I = (
        by_block(lo_Q, num_keys + BLOCK).amax(1, keepdim=True),
        by_block(hi_Q, -1).amin(1, keepdim=True),
    )
    start_J = torch.arange(num_key_blocks, device=lo_Q.device) * BLOCK
    touched_IJ = (start_J + BLOCK > lowest_I) & (start_J <= highest_I)
    full_IJ = (start_J >= last_lo_I) & (start_J + BLOCK - 1 <= first_hi_I)
    partial_IJ = touched_IJ & ~full_IJ

    def allowed(_batch: Any, _head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key >= lo_Q[query]) & (key <= hi_Q[query])

    tables = [table for blocks in (partial_IJ, full_IJ, partial_IJ.T, full_IJ.T) for table in _listed(blocks)]
    return BlockMask((len(lo_Q), num_keys), *tables, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=allowed)


def _listed(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many columns of each row are chosen, and the columns, the chosen ones first: [1, 1, rows] and [1, 1, rows, columns]."""
    order = torch.argsort(chosen.to(torch.int8), dim=1, descending=True, stable=True)
    return chosen.sum(1, dtype=torch.int32)[None, None], order.to(torch.int32).contiguous()[None, None]


def attend_flex(q_QHK: torch.Tensor, k_MHK: torch.Tensor, v_MHK: torch.Tensor, mask: BlockMask | None) -> torch.Tensor:
    """[Q, H, K]; zeros for queries without keys. Within a compiled block it becomes part of that block's graph."""
    if mask is None:
        return q_QHK * 0 + (k_MHK.sum() + v_MHK.sum()) * 0  # every weight takes part, as sharded gradients need it
    if torch.compiler.is_compiling():
        return _flex(q_QHK, k_MHK, v_MHK, mask)
    kind = (q_QHK.dtype, q_QHK.shape[1:], len(q_QHK) == len(k_MHK), torch.is_grad_enabled() and q_QHK.requires_grad)
    with torch.autocast(q_QHK.device.type, enabled=False):  # inputs have their type already; one graph fewer
        out_QHK: torch.Tensor = _compiled_flex(kind)(q_QHK, k_MHK, v_MHK, mask)
    return out_QHK


def _flex(q_QHK: torch.Tensor, k_MHK: torch.Tensor, v_MHK: torch.Tensor, mask: BlockMask) -> torch.Tensor:
    q_HQK, k_HMK, v_HMK = (x.transpose(0, 1)[None] for x in (q_QHK, k_MHK, v_MHK))
    out_HQK: torch.Tensor = flex_attention(q_HQK, k_HMK, v_HMK, block_mask=mask)[0]
    return out_HQK.transpose(0, 1)


@functools.cache
def _compiled_flex(kind: tuple[Any, ...]) -> Callable[..., torch.Tensor]:
    """One compiled function for each kind of call, of any length."""
    compiled: Callable[..., torch.Tensor] = torch.compile(with_own_code(_flex, f"flex_{abs(hash(kind))}"), dynamic=True)
    return compiled


def with_own_code(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A copy of a function that the compiler counts by itself: it keeps at most 8 graphs per code object, and what comes after
    them runs uncompiled, which for FlexAttention means dense scores."""
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace(co_name=name)
    copy: Callable[..., Any] = types.FunctionType(
        code, function.__globals__, name, function.__defaults__, function.__closure__
    )
    return copy
