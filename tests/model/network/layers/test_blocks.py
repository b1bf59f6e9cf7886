"""The optimised pieces against plain ones, with their gradients; and the attention backends against each other."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.network.cache import Cache
from model.network.layers import attention
from model.network.layers.attention import TILE, Intervals, attend, self_intervals
from model.network.layers.blocks import RMSNorm, SwiGLU, rope_tables, rotate
from model.network.patch_encoder import max_pool

EXACT = {"rtol": 0, "atol": 1e-12}


def gradients(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> list[torch.Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


@st.composite
def interval_cases(draw: st.DrawFn) -> tuple[Intervals, int, int]:
    """Queries, keys, and an interval for each query, some of them empty."""
    num_queries = draw(st.integers(1, 2 * TILE + 20))
    num_keys = draw(st.integers(1, 90))
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    lo, size = (torch.randint(0, num_keys, (num_queries,), generator=generator) for _ in range(2))
    hi = torch.minimum(lo + size, torch.tensor(num_keys - 1))
    empty = torch.rand(num_queries, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    return Intervals(lo_Q=lo, hi_Q=torch.where(empty, lo - 1, hi), num_keys=num_keys), num_queries, seed


@given(interval_cases(), st.sampled_from([(2, 2), (4, 2), (3, 1)]))
@settings(max_examples=40, deadline=None)
def test_tiles_equal_dense_attention_on_any_intervals(case: tuple[Intervals, int, int], heads: tuple[int, int]) -> None:
    intervals, num_queries, seed = case
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(num_queries, heads[0], 4, dtype=torch.float64, generator=generator)
    k, v = (torch.randn(intervals.num_keys, heads[1], 4, dtype=torch.float64, generator=generator) for _ in range(2))
    dense = gradients(lambda *x: attend(*x, intervals, "dense"), q, k, v)
    for kept_bytes in (0, attention.KEPT_BYTES):
        with patch.object(attention, "KEPT_BYTES", kept_bytes):
            tiled = gradients(lambda *x: attend(*x, intervals, "blocks"), q, k, v)
        for one, other in zip(dense, tiled, strict=True):
            torch.testing.assert_close(one, other, **EXACT)
    empty = intervals.hi_Q < intervals.lo_Q
    assert not tiled[0][empty].any()


def test_dense_attention_is_softmax_over_the_interval() -> None:
    intervals = Intervals(lo_Q=torch.tensor([1, 0]), hi_Q=torch.tensor([2, -1]), num_keys=4)
    q, k, v = torch.randn(2, 1, 3), torch.randn(4, 1, 3), torch.randn(4, 1, 3)
    weights = torch.softmax(k[1:3, 0] @ q[0, 0] / 3**0.5, 0)
    out = attend(q, k, v, intervals, "dense")
    torch.testing.assert_close(out[0, 0], weights @ v[1:3, 0])
    assert not out[1].any()


def test_tiles_hold_no_more_than_the_window_reaches() -> None:
    """The memory that docs/model.md states: no N x N mask, and the mask of a window's interior stored once."""
    length, window = 4096, 512
    intervals = self_intervals(torch.zeros(length, dtype=torch.int64), torch.ones(length, dtype=torch.bool), window)
    tiles = intervals.tiles(torch.float32)
    assert max(tile.key_stop - tile.key_start for tile in tiles) <= window + TILE
    stored = {id(tile.bias_CM): tile.bias_CM.numel() for tile in tiles if tile.bias_CM is not None}
    assert sum(stored.values()) <= 5 * TILE * (window + TILE)


@pytest.mark.parametrize("window", [None, 3])
def test_self_intervals_stay_in_the_document(window: int | None) -> None:
    start = torch.tensor([0, 0, 0, 0, 4, 4, 6])
    valid = torch.tensor([True] * 6 + [False])
    mask = self_intervals(start, valid, window).dense_mask()
    for i in range(7):
        for j in range(7):
            expected = bool(valid[i]) and start[i] <= j <= i and (window is None or j > i - window)
            assert bool(mask[i, j]) == expected


def test_rotation_and_its_gradient_equal_the_complex_product() -> None:
    position = torch.tensor([0, 1, 7, 1000])
    rope = rope_tables(position, 6, 1e4, torch.float64)
    x = torch.randn(4, 2, 6, dtype=torch.float64)

    def by_complex_numbers(x: torch.Tensor) -> torch.Tensor:
        angle = position[:, None, None] * 1e4 ** (-torch.arange(0, 6, 2, dtype=torch.float64) / 6)
        turned = torch.complex(x[..., :3], x[..., 3:]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([turned.real, turned.imag], -1)

    for one, other in zip(gradients(lambda x: rotate(x, rope), x), gradients(by_complex_numbers, x), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_attention_depends_on_distance_alone() -> None:
    q, k = torch.randn(1, 1, 8, dtype=torch.float64), torch.randn(1, 1, 8, dtype=torch.float64)

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        return rotate(x, rope_tables(torch.tensor([position]), 8, 1e4, x.dtype))

    scores = [(turned(q, position + 5) * turned(k, position)).sum() for position in (0, 400)]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-10)


def test_fused_feed_forward_and_its_gradients_equal_the_plain_one() -> None:
    module = SwiGLU(6, 10).double()
    x = torch.randn(5, 6, dtype=torch.float64)

    def plain(x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        gate, up = (x @ gate_up.T).chunk(2, -1)
        return (F.silu(gate) * up) @ down.T

    weights = [module.gate_up.weight, module.down.weight]
    expected = gradients(plain, x, *weights)
    out = module(x_leaf := x.clone().requires_grad_())
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    actual = [out, *torch.autograd.grad((out * weight).sum(), [x_leaf, *weights])]
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
def test_fast_norm_and_its_gradients_equal_torchs(dtype: torch.dtype, tolerance: float) -> None:
    norm, generator = RMSNorm(24, 1e-5).to(dtype), torch.Generator().manual_seed(0)
    x = torch.randn(7, 24, dtype=dtype, generator=generator) * 3 + 1
    gain = torch.rand(24, dtype=dtype, generator=generator) + 0.5

    def ours(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(norm, {"weight": gain}, x)

    expected = gradients(lambda x, gain: F.rms_norm(x, (24,), gain, 1e-5), x.double(), gain.double())
    for one, other in zip(gradients(ours, x, gain), expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


def test_norm_has_unit_root_mean_square() -> None:
    norm = RMSNorm(16, 1e-12).double()
    torch.nn.init.constant_(norm.weight, 2.0)
    out = norm(torch.randn(3, 16, dtype=torch.float64) * 50)
    torch.testing.assert_close(out.pow(2).mean(-1), torch.full((3,), 4.0, dtype=torch.float64))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_pooling_is_the_maximum_of_each_segment(steps: list[int]) -> None:
    pool = torch.tensor(sorted(steps))
    x = torch.randn(len(pool), 3)
    pooled = max_pool(x, pool, 7)
    for latent in range(7):
        own = x[pool == latent]
        expected = own.amax(0) if len(own) else torch.zeros(3)
        assert torch.equal(pooled[latent], expected)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=40), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_growing_cache_reads_what_a_list_would(turns: list[list[bool]], window: int) -> None:
    """Rows append when it is their turn; tags rise by 1 at every third entry of the row."""
    cache = Cache(1, 3, (1, 2), capacity=2, window=window, like=torch.zeros(1, dtype=torch.float64))
    lists: list[list[tuple[int, torch.Tensor, torch.Tensor]]] = [[], [], []]
    for turn in turns:
        rows = [row for row in range(3) if turn[row]]
        if not rows:
            continue
        tags = [len(lists[row]) // 3 for row in rows]
        k, v, q = (torch.randn(len(rows), 1, 1, 2, dtype=torch.float64) for _ in range(3))
        kv = torch.stack([k, v])  # [2, R, 1 head, 1 entry, 2]
        cache.write(0, cache.reserve(np.array(rows), np.array(tags)), kv)
        for i, row in enumerate(rows):
            lists[row].append((tags[i], k[i, 0, 0], v[i, 0, 0]))
        out = cache.attend(0, cache.view(np.array(rows), np.array(tags)), q[:, 0])
        for i, row in enumerate(rows):
            near = [(key, value) for tag, key, value in lists[row] if tag > tags[i] - window]
            weights = torch.softmax(torch.stack([key for key, _ in near]) @ q[i, 0, 0] / 2**0.5, 0)
            torch.testing.assert_close(out[i, 0], weights @ torch.stack([value for _, value in near]), **EXACT)
