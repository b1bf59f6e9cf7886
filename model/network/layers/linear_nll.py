"""The output head's loss without its logits: chunk by chunk, computed again for the gradient.

At 1B a row of logits is 130 kB in fp32, and autograd keeps two of them. Here a call keeps two numbers per row, for one more
product with the head's weight. On CUDA the vocabulary is padded to a multiple of 64: 32,507 columns take a kernel three times
as slow as 32,512 (measured on an H100, docs/results/gpu-probe.md).

Shape suffixes: R rows, C rows of a chunk, D width, U ids of the head (padded in the products).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

CHUNK = 2**26
"""Logits held at once: 256 MiB in fp32."""
KEPT = 2**24
"""Where all logits are no more than this, autograd may keep them: computing them again would cost more than it saves."""
PADDED_TO = 64
"""Rows of the head on CUDA: tensor cores take a vocabulary of an odd size by a slower kernel."""


class _LinearNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_RD: torch.Tensor, weight_UD: torch.Tensor, target_R: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.set_materialize_grads(False)
        narrow_UD = _padded(weight_UD.to(dtype))
        nll_R = torch.empty(len(x_RD), dtype=torch.float32, device=x_RD.device)
        total_R = torch.empty_like(nll_R)
        for rows in _chunks(len(x_RD), len(narrow_UD)):
            logits_CU = _logits(x_RD[rows], narrow_UD, len(weight_UD))
            total_R[rows] = torch.logsumexp(logits_CU, dim=-1)
            nll_R[rows] = total_R[rows] - logits_CU.gather(1, target_R[rows, None])[:, 0]
        ctx.save_for_backward(x_RD, weight_UD, target_R, total_R)
        ctx.dtype = dtype
        return nll_R, total_R

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_R: torch.Tensor | None, grad_total_R: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        x_RD, weight_UD, target_R, total_R = ctx.saved_tensors
        grad_R = torch.zeros_like(total_R) if grad_R is None else grad_R
        narrow_UD = _padded(weight_UD.to(ctx.dtype))
        dx_RD = torch.empty_like(x_RD)
        dweight_UD = torch.zeros(narrow_UD.shape, dtype=torch.float32, device=x_RD.device)
        for rows in _chunks(len(x_RD), len(narrow_UD)):
            p_CU = _logits(x_RD[rows], narrow_UD, len(weight_UD)).sub_(total_R[rows, None]).exp_()
            own_C1 = target_R[rows, None]
            if grad_total_R is None:
                d_CU = p_CU.scatter_add_(1, own_C1, p_CU.new_full((len(p_CU), 1), -1.0)).mul_(grad_R[rows, None])
            else:
                d_CU = p_CU.mul_((grad_R + grad_total_R)[rows, None]).scatter_add_(1, own_C1, -grad_R[rows, None])
            d_CU = d_CU.to(ctx.dtype)
            dx_RD[rows] = (d_CU @ narrow_UD).to(dx_RD.dtype)
            dweight_UD += d_CU.T @ x_RD[rows].to(ctx.dtype)
        return dx_RD, dweight_UD[: len(weight_UD)].to(weight_UD.dtype), None, None


def linear_nll(
    x_RD: torch.Tensor, weight_UD: torch.Tensor, target_R: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nats of each row's target under softmax(x W^T), and the log of the row's partition function, fp32 [R] each; the products
    are done in `dtype`."""
    nll_R, total_R = _LinearNLL.apply(x_RD, weight_UD, target_R, dtype)
    return nll_R, total_R


def _logits(x_CD: torch.Tensor, narrow_UD: torch.Tensor, size: int) -> torch.Tensor:
    logits_CU = (x_CD.to(narrow_UD.dtype) @ narrow_UD.T).float()
    logits_CU[:, size:] = float("-inf")
    return logits_CU


def _padded(weight_UD: torch.Tensor) -> torch.Tensor:
    missing = -len(weight_UD) % PADDED_TO if weight_UD.is_cuda else 0
    return F.pad(weight_UD, (0, 0, 0, missing)) if missing else weight_UD


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, CHUNK // columns)
    return (slice(start, start + size) for start in range(0, rows, size))
