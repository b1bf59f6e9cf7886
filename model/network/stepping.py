"""The layers, one element at a time: what generation runs in place of the packed forward pass.

At one row per step the weights are read once and used once, so what counts is how many bytes a step reads and how many
operations it starts. Hence: queries, keys and values in one product, the residual added within a product, RoPE as three
operations on queries and keys together, norms as one layer norm, and (`packed`) weights in oneDNN's own layout.

Shape suffixes: R rows of a batch that take part, J vectors per row, D width, H query heads, G key-value heads,
A = H + 2 G heads of a product, Q queries per key head, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model.network.cache import Cache, CacheSlots, View
from model.network.config import StackConfig
from model.network.layers.blocks import Block, CrossAttention, RMSNorm, rope_tables

SMALL = 2**18
"""Below so many elements a call of oneDNN costs more (13 microseconds) than its layout saves in fp32."""


def can_pack(weight: torch.Tensor) -> bool:
    """Whether oneDNN takes this weight in its own layout."""
    return (
        bool(torch.backends.mkldnn.is_available())
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


class Product:
    """x W^T, with a residual added where one is given.

    `packed` copies the weight into the layout that is fastest on CPU. bf16, and fp32 with several rows: oneDNN's own (torch
    otherwise converts all of the weight at every call). fp32 with one row: the longer axis last, since a product with a vector
    reads it in runs: up to twice as fast.
    """

    def __init__(self, weight: torch.Tensor, packed: bool, num_rows: int) -> None:
        weight = weight.detach()
        self.weight, self.transposed = weight, weight.t()
        self.packed: torch.Tensor | None = None
        if not packed or not can_pack(weight):
            return
        if weight.dtype == torch.bfloat16 or (num_rows > 1 and weight.numel() >= SMALL):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, num_rows)
        elif num_rows == 1 and weight.shape[0] > weight.shape[1]:
            self.transposed = self.transposed.contiguous()
            self.weight = self.transposed.t()

    def __call__(self, x_RD: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        out: torch.Tensor
        if self.packed is None:
            return torch.mm(x_RD, self.transposed) if residual is None else torch.addmm(residual, x_RD, self.transposed)
        linear = torch.ops.mkldnn._linear_pointwise
        if residual is None:
            out = linear.default(x_RD, self.packed, None, "none", [], "")
        else:
            out = linear.binary(x_RD, residual, self.packed, None, "add")
        return out


class Norm:
    """RMS norm. On CPU that is a chain of eight kernels in torch, and layer norm is one: over (x, -x) the mean is 0 and the
    variance the mean square of x, so the first half of its result is the RMS norm of x."""

    def __init__(self, norm: RMSNorm) -> None:
        self.gain, self.eps = norm.weight.detach(), norm.eps
        self.doubled = torch.cat([self.gain, self.gain])

    def __call__(self, x_RD: torch.Tensor) -> torch.Tensor:
        if x_RD.is_cuda:
            return F.rms_norm(x_RD, self.gain.shape, self.gain, self.eps)
        both = torch.cat([x_RD, -x_RD], dim=-1)
        return torch.native_layer_norm(both, self.doubled.shape, self.doubled, None, self.eps)[0][:, : x_RD.shape[1]]


class BlockSteps:
    """`Block`, one element further."""

    def __init__(self, block: Block, packed: bool, num_rows: int) -> None:
        attention, feed_forward = block.attention, block.feed_forward
        self.num_heads, self.num_kv_heads, self.head_dim = (
            attention.num_heads, attention.num_kv_heads, attention.head_dim
        )  # fmt: skip
        self.qk_norm = attention.qk_norm
        self.attention_norm, self.feed_forward_norm = Norm(block.attention_norm), Norm(block.feed_forward_norm)
        self.qkv, self.out, self.gate_up, self.down = (
            Product(linear.weight, packed, num_rows)
            for linear in (attention.qkv, attention.out, feed_forward.gate_up, feed_forward.down)
        )

    def __call__(self, x_RD: torch.Tensor, step: StackStep, layer: int) -> torch.Tensor:
        rows, heads, groups, width = len(x_RD), self.num_heads, self.num_kv_heads, self.head_dim
        qkv_RAK = self.qkv(self.attention_norm(x_RD)).view(rows, heads + 2 * groups, width)
        if self.qk_norm is not None:
            qk_RAK, v_RAK = qkv_RAK.split([heads + groups, groups], dim=1)
            qkv_RAK = torch.cat([self.qk_norm(qk_RAK, heads), v_RAK], dim=1)
        qkv_RAK = torch.addcmul(qkv_RAK * step.rope[0], qkv_RAK.roll(width // 2, -1), step.rope[1])
        cache = step.stack.cache
        cache.write(layer, step.place, qkv_RAK[:, heads:].view(rows, 2, groups, 1, width).transpose(0, 1))
        q_XQK = qkv_RAK[:, :heads].reshape(rows * groups, heads // groups, width)
        x_RD = self.out(cache.attend(layer, step.view, q_XQK).view(rows, -1), x_RD)
        gate, up = self.gate_up(self.feed_forward_norm(x_RD)).chunk(2, dim=-1)
        return self.down(F.silu(gate).mul_(up), x_RD)


class FusedBlockSteps:
    """`BlockSteps` for one row in fp32 on CPU, in one call where the row may read all that its ring holds."""

    def __init__(self, block: Block) -> None:
        from model.network.layers.fused import block_step

        self.step, self.plain = block_step, BlockSteps(block, False, 1)
        attention, feed_forward = block.attention, block.feed_forward
        self.eps = block.attention_norm.eps
        self.weights = arrays_of(
            block.attention_norm.weight, attention.qkv.weight, attention.out.weight,
            block.feed_forward_norm.weight, feed_forward.gate_up.weight, feed_forward.down.weight,
        )  # fmt: skip

    def __call__(self, x_RD: torch.Tensor, step: StackStep, layer: int) -> torch.Tensor:
        if not step.place.keys or step.view.bias_X1T is not None:
            return self.plain(x_RD, step, layer)
        keys, values = step.stack.cache.arrays()
        cos_RAK, sin_RAK = step.rope
        y_D = self.step(
            x_RD[0].numpy(), self.weights, self.eps, cos_RAK[0, 0].numpy(), sin_RAK[0, 0].numpy(),
            keys[layer, 0], values[layer, 0], step.place.first, step.view.used,
        )  # fmt: skip
        return torch.from_numpy(y_D)[None]


def can_fuse(weight: torch.Tensor, packed: bool, num_rows: int) -> bool:
    """Whether layers of this kind are run by `model.network.layers.fused`: one row, fp32, on CPU, where speed was asked for."""
    fits = packed and num_rows == 1 and weight.device.type == "cpu" and weight.dtype == torch.float32
    return fits and find_spec("numba") is not None  # exported code runs where numba may be missing


def arrays_of(*weights: torch.Tensor) -> tuple[np.ndarray, ...]:
    """The weights as arrays over the same memory."""
    return tuple(weight.detach().contiguous().numpy() for weight in weights)


@dataclass(frozen=True)
class StackStep:
    """What the layers of a stack share in one step."""

    stack: StackSteps
    rope: tuple[torch.Tensor, torch.Tensor]
    place: CacheSlots
    view: View

    def run(self, layer: int, x_RD: torch.Tensor) -> torch.Tensor:
        """What a layer makes of the rows of this step."""
        return self.stack.blocks[layer](x_RD, self, layer)


class StackSteps:
    """The layers of a stack with their cache and their positions' rotations."""

    def __init__(
        self, stack: StackConfig, layers: nn.ModuleList, num_rows: int, capacity: int, window: int | None, packed: bool
    ) -> None:
        self.stack = stack
        like = cast(Block, layers[0]).attention.out.weight.detach()
        # large matrices are read at the memory's pace either way, so the global part is left to torch and its threads
        fuse = window is not None and can_fuse(like, packed, num_rows)
        self.blocks: list[BlockSteps | FusedBlockSteps] = [
            FusedBlockSteps(block) if fuse and block.attention.qk_norm is None else BlockSteps(block, packed, num_rows)
            for block in (cast(Block, layer) for layer in layers)
        ]
        self.cache = Cache(len(layers), num_rows, (stack.kv_heads, stack.head_dim), capacity, window, like, 1)
        self._like = like
        self._rope = (like.new_empty(0, stack.head_dim), like.new_empty(0, stack.head_dim))
        shape = (num_rows, stack.num_heads + 2 * stack.kv_heads, stack.head_dim)
        self._turn = like.new_ones(shape), like.new_zeros(shape)
        """Cosines and sines of a step, filled anew by each; those of the values stay 1 and 0."""

    def begin(self, rows_R: np.ndarray, tag_R: np.ndarray, position_R: np.ndarray) -> StackStep:
        """A step of these rows: `tag_R` counts a row's elements in this stack, `position_R` is where they stand, for the
        rotation."""
        rope, place = self._rotations(position_R), self.cache.reserve(rows_R, tag_R)
        return StackStep(self, rope, place, self.cache.view(rows_R, tag_R))

    def _rotations(self, position_R: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines, and sines with their sign, [R, A, K] for x cos + roll(x) sin; values are left as they are."""
        known, farthest, rows = len(self._rope[0]), int(position_R.max()), len(position_R)
        if farthest >= known:
            positions = torch.arange(max(256, 2 * known, farthest + 1), device=self._like.device)
            cos, sin = rope_tables(positions, self.stack.head_dim, self.stack.rope_theta, self._like.dtype)
            self._rope = torch.cat([cos, cos], -1)[:, 0], torch.cat([-sin, sin], -1)[:, 0]
        turned = self.stack.num_heads + self.stack.kv_heads
        even = rows == 1 or bool((position_R == farthest).all())
        index = farthest if even else torch.as_tensor(position_R, device=self._like.device)
        for table, full in zip(self._rope, self._turn, strict=True):
            full[:rows, :turned] = table[index] if even else table[index][:, None]
        return self._turn[0][:rows], self._turn[1][:rows]


class CrossSteps:
    """`CrossAttention` over sources that are remembered one by one."""

    def __init__(self, cross: CrossAttention, packed: bool, num_rows: int) -> None:
        self.num_heads, self.head_dim = cross.num_heads, cross.head_dim
        self.query_norm, self.key_norm = Norm(cross.query_norm), Norm(cross.key_norm)
        self.query, self.key_value, self.out = (
            Product(linear.weight, packed, num_rows) for linear in (cross.query, cross.key_value, cross.out)
        )
        self.weights: tuple[np.ndarray, ...] | None = None
        if can_fuse(cross.query.weight, packed, num_rows):
            from model.network.layers.fused import cross_step

            self.step = cross_step
            self.weights = arrays_of(cross.query_norm.weight, cross.query.weight, cross.out.weight)

    def remember(self, y_XD: torch.Tensor, cache: Cache, layer: int, place: CacheSlots, entries: int = 1) -> None:
        """Make `entries` more sources of each row readable; X = R * entries."""
        shape = (len(y_XD) // entries, entries, 2, self.num_heads, self.head_dim)
        kv_RJ2HK = self.key_value(self.key_norm(y_XD)).view(shape)
        cache.write(layer, place, kv_RJ2HK.permute(2, 0, 3, 1, 4))

    def __call__(self, x_XD: torch.Tensor, cache: Cache, layer: int, view: View, queries: int = 1) -> torch.Tensor:
        """x plus its update; X = R * queries."""
        if self.weights is not None and view.bias_X1T is None and view.keys:
            keys, values = cache.arrays()
            y_XD = self.step(
                x_XD.numpy(), self.weights, self.query_norm.eps, keys[layer, 0], values[layer, 0], view.used
            )
            return torch.from_numpy(y_XD)
        rows = len(x_XD) // queries
        q_RJHK = self.query(self.query_norm(x_XD)).view(rows, queries, self.num_heads, self.head_dim)
        q_XJK = q_RJHK.transpose(1, 2).reshape(rows * self.num_heads, queries, self.head_dim)
        heads_XJK = cache.attend(layer, view, q_XJK)
        heads_RJHK = heads_XJK.view(rows, self.num_heads, queries, self.head_dim).transpose(1, 2)
        return self.out(heads_RJHK.reshape(len(x_XD), -1), x_XD)
