"""The blocks that every module is made of: RMSNorm, RoPE, SwiGLU, self- and cross-attention.

Shape suffixes: N rows, M key rows, D width, F hidden width of the feed-forward, H heads, K head width.
Generation runs the same weights one element at a time: `model.network.stepping`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from model.network.layers.attention import Intervals, attend
from model.network.layers.backend import Backend


def rope_tables(
    position_N: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [N, 1, K / 2] of rotary position embedding (RoFormer, eq. 15), computed in fp64."""
    exponent = torch.arange(0, head_dim, 2, device=position_N.device, dtype=torch.float64) / head_dim
    angle_NK = position_N[:, None].to(torch.float64) * theta**-exponent
    return angle_NK.cos().to(dtype)[:, None], angle_NK.sin().to(dtype)[:, None]


class _Rotate(torch.autograd.Function):
    """Rotation of (x[i], x[i + K/2]) pairs, the layout of Llama checkpoints on Hugging Face. Its gradient is the
    inverse rotation; written out because it halves the passes over memory that autograd would make."""

    @staticmethod
    def forward(ctx: Any, x_NHK: torch.Tensor, cos_N1K: torch.Tensor, sin_N1K: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos_N1K, sin_N1K)
        return _rotate(x_NHK, cos_N1K, sin_N1K)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_NHK: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos_N1K, sin_N1K = ctx.saved_tensors
        return _rotate(grad_NHK, cos_N1K, -sin_N1K), None, None


def _rotate(x_NHK: torch.Tensor, cos_N1K: torch.Tensor, sin_N1K: torch.Tensor) -> torch.Tensor:
    rows, heads, width = x_NHK.shape
    out_NHK = x_NHK.new_empty(heads, rows, width).transpose(0, 1)  # as attention's tiles read it: head by head
    left, right = x_NHK.chunk(2, dim=-1)
    out_left, out_right = out_NHK.chunk(2, dim=-1)
    torch.mul(left, cos_N1K, out=out_left).addcmul_(right, sin_N1K, value=-1)
    torch.mul(right, cos_N1K, out=out_right).addcmul_(left, sin_N1K)
    return out_NHK


def rotate(x_NHK: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Apply rotary position embedding with the tables of `rope_tables`."""
    if torch.compiler.is_compiling():  # the compiler fuses plain operations, and cannot look into the function below
        left, right = x_NHK.chunk(2, dim=-1)
        cos_N1K, sin_N1K = rope
        turned = [left * cos_N1K - right * sin_N1K, right * cos_N1K + left * sin_N1K]
        return torch.cat(turned, dim=-1).to(x_NHK.dtype)
    out_NHK: torch.Tensor = _Rotate.apply(x_NHK, *rope)
    return out_NHK


class _RMSNorm(torch.autograd.Function):
    """On CPU torch's backward pass of `rms_norm` is a chain of ten kernels. Layer norm's is one: at mean 0 it gives the gain's
    gradient, and the input's up to the mean of the incoming gradient, which layer norm takes away and this puts back."""

    @staticmethod
    def forward(ctx: Any, x_ND: torch.Tensor, gain_D: torch.Tensor, eps: float) -> torch.Tensor:
        wide = torch.promote_types(x_ND.dtype, torch.float32)
        norm_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True, dtype=wide)
        scale_N1 = (norm_N1.square() / x_ND.shape[-1] + eps).rsqrt()
        ctx.save_for_backward(x_ND, gain_D, scale_N1)
        return F.rms_norm(x_ND, gain_D.shape, gain_D, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x_ND, gain_D, scale_N1 = ctx.saved_tensors
        dx_ND, dgain_D, _ = torch.ops.aten.native_layer_norm_backward(
            grad_ND.contiguous(), x_ND, gain_D.shape, torch.zeros_like(scale_N1), scale_N1, gain_D.to(scale_N1.dtype), None,
            (True, True, False),
        )  # fmt: skip
        taken_N1 = (grad_ND @ gain_D.to(grad_ND.dtype))[:, None] / x_ND.shape[-1] * scale_N1
        return dx_ND.add_(taken_N1.to(x_ND.dtype)), dgain_D.to(gain_D.dtype), None


class RMSNorm(nn.Module):
    """Root mean square normalisation with a gain (Zhang and Sennrich 2019)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.eps = eps

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        if x_ND.is_cuda or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return F.rms_norm(x_ND, self.weight.shape, self.weight.to(x_ND.dtype), self.eps)
        out_ND: torch.Tensor = _RMSNorm.apply(x_ND, self.weight, self.eps)
        return out_ND


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up over the two halves of one projection, keeping the projection alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate_up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        grad_gate, grad_up = out.chunk(2, dim=-1)
        torch.ops.aten.silu.out(gate, out=grad_up).mul_(
            grad
        )  # written where they belong: no more memory than the result
        torch.ops.aten.silu_backward.grad_input(grad, gate, grad_input=grad_gate).mul_(up)
        return out


class SwiGLU(nn.Module):
    """Feed-forward with a gated hidden layer (Shazeer 2020), no biases."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        gate_up: torch.Tensor = self.gate_up(x_ND)
        if torch.compiler.is_compiling():
            gate, up = gate_up.chunk(2, dim=-1)
            hidden_NF = F.silu(gate) * up
        else:
            hidden_NF = _SwiGLU.apply(gate_up)
        out_ND: torch.Tensor = self.down(hidden_NF)
        return out_ND


class QKNorm(nn.Module):
    """RMS norm of each head's queries and keys (Dehghani et al. 2023), a gain for all heads' queries and one for their keys."""

    def __init__(self, head_dim: int, eps: float) -> None:
        super().__init__()
        self.query, self.key = nn.Parameter(torch.empty(head_dim)), nn.Parameter(torch.empty(head_dim))
        self.eps = eps

    def forward(self, qk_NAK: torch.Tensor, num_heads: int) -> torch.Tensor:
        """The first `num_heads` are queries, the rest keys."""
        wide_NAK = F.rms_norm(
            qk_NAK.to(torch.promote_types(qk_NAK.dtype, torch.float32)), self.query.shape, None, self.eps
        )
        others = qk_NAK.shape[1] - num_heads
        gain_AK = torch.cat([self.query.expand(num_heads, -1), self.key.expand(others, -1)])
        return (wide_NAK * gain_AK).to(qk_NAK.dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention with RoPE; queries, keys and values come from one product. With `qk_norm_eps` each head's queries
    and keys are normed first."""

    def __init__(
        self, dim: int, num_heads: int, num_kv_heads: int, backend: Backend, qk_norm_eps: float | None = None
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim, self.backend = dim // num_heads, backend
        self.qkv = nn.Linear(dim, (num_heads + 2 * num_kv_heads) * self.head_dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.qk_norm = None if qk_norm_eps is None else QKNorm(self.head_dim, qk_norm_eps)

    def project(
        self, x_ND: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated queries [N, H, K] and keys, and values."""
        return self.split(self.qkv(x_ND), rope)

    def split(
        self, qkv_NC: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`project` from what `qkv` gave."""
        qkv = qkv_NC.view(len(qkv_NC), self.num_heads + 2 * self.num_kv_heads, self.head_dim)
        qk, v = torch.split(qkv, [self.num_heads + self.num_kv_heads, self.num_kv_heads], dim=1)
        if self.qk_norm is not None:
            qk = self.qk_norm(qk, self.num_heads)
        q, k = torch.split(rotate(qk, rope), [self.num_heads, self.num_kv_heads], dim=1)
        return q, k, v

    def forward(
        self, x_ND: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], intervals: Intervals
    ) -> torch.Tensor:
        heads_NHK = attend(*self.project(x_ND, rope), intervals, self.backend)
        out_ND: torch.Tensor = self.out(heads_NHK.flatten(1))
        return out_ND


class Block(nn.Module):
    """A pre-norm transformer layer: self-attention, then SwiGLU. The unit of FSDP sharding and recomputation."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_kv_heads: int,
        hidden_dim: int,
        norm_eps: float,
        backend: Backend,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(dim, norm_eps)
        self.attention = SelfAttention(dim, num_heads, num_kv_heads, backend, norm_eps if qk_norm else None)
        self.feed_forward_norm = RMSNorm(dim, norm_eps)
        self.feed_forward = SwiGLU(dim, hidden_dim)

    def forward(
        self, x_ND: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], intervals: Intervals
    ) -> torch.Tensor:
        x_ND = x_ND + self.attention(self.attention_norm(x_ND), rope, intervals)
        out_ND: torch.Tensor = x_ND + self.feed_forward(self.feed_forward_norm(x_ND))
        return out_ND


class CrossAttention(nn.Module):
    """Queries of one sequence read the keys of another: norms on both sides, no positions, no biases.

    Returns the update alone. The caller adds it to the queries once; the released code adds the queries twice.
    """

    def __init__(self, dim: int, num_heads: int, norm_eps: float, backend: Backend) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.backend = num_heads, dim // num_heads, backend
        self.query_norm = RMSNorm(dim, norm_eps)
        self.key_norm = RMSNorm(dim, norm_eps)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def project_queries(self, x_ND: torch.Tensor) -> torch.Tensor:
        """[N, H, K]."""
        q_NHK: torch.Tensor = self.query(self.query_norm(x_ND)).view(len(x_ND), self.num_heads, self.head_dim)
        return q_NHK

    def project_keys(self, y_MD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, [M, H, K] each."""
        kv_MHK = self.key_value(self.key_norm(y_MD)).view(len(y_MD), 2 * self.num_heads, self.head_dim)
        k_MHK, v_MHK = torch.split(kv_MHK, self.num_heads, dim=1)
        return k_MHK, v_MHK

    def forward(self, x_ND: torch.Tensor, y_MD: torch.Tensor, intervals: Intervals) -> torch.Tensor:
        heads_NHK = attend(self.project_queries(x_ND), *self.project_keys(y_MD), intervals, self.backend)
        out_ND: torch.Tensor = self.out(heads_NHK.flatten(1))
        return out_ND
