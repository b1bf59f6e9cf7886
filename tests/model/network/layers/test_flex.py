"""What a GPU needs of the layers, as far as a CPU can tell: block masks, one graph per pattern, and the same types everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch._dynamo.testing import CompileCounterWithBackend

from model.network.batch import Batch
from model.network.layers import flex
from model.network.layers.attention import Intervals, self_intervals
from model.network.layers.blocks import Block, CrossAttention, RMSNorm, rope_tables
from model.network.layers.flex import BLOCK, block_mask
from model.network.layout import select
from model.network.lst import build_model
from model.network.vocabulary import BOS, EOS, SPEECH_MARK, TEXT_MARK
from model.training.module import compile_blocks
from tests.model.network.cases import VOCABULARY, document_of, make_batch, make_document, plain_config, small_config
from tests.model.network.layers.test_blocks import interval_cases

MODELS = {
    "local": small_config(encoder__cross_layers="all"),
    "direct": small_config(text_path="direct", head="per_modality"),
    "heads": small_config(head="per_modality"),
    "projected": small_config(global__dim=24),
    "plain": plain_config(),
    "plain, heads": plain_config(head="per_modality"),
}


def blocks_of(numbers: torch.Tensor, order: torch.Tensor, columns: int) -> np.ndarray:
    """bool [rows, columns] from a table of the mask."""
    chosen = np.zeros((numbers.shape[2], columns), dtype=bool)
    for row, (count, columns_of_row) in enumerate(zip(numbers[0, 0].tolist(), order[0, 0].tolist(), strict=True)):
        chosen[row, columns_of_row[:count]] = True
    return chosen


@given(interval_cases())
@settings(max_examples=40, deadline=None)
def test_blocks_cover_the_pattern_and_full_ones_are_full(case: tuple[Intervals, int, int]) -> None:
    intervals, num_queries, _ = case
    mask = block_mask(intervals.lo_Q, intervals.hi_Q, intervals.num_keys)
    assert mask is not None
    dense = intervals.dense_mask().numpy()
    rows, columns = -(-num_queries // BLOCK), -(-intervals.num_keys // BLOCK)
    partial = blocks_of(mask.kv_num_blocks, mask.kv_indices, columns)
    full = blocks_of(mask.full_kv_num_blocks, mask.full_kv_indices, columns)
    assert np.array_equal(blocks_of(mask.q_num_blocks, mask.q_indices, rows), partial.T)
    assert np.array_equal(blocks_of(mask.full_q_num_blocks, mask.full_q_indices, rows), full.T)
    assert not (partial & full).any()
    for i in range(rows):
        for j in range(columns):
            part = dense[i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK]
            assert partial[i, j] or full[i, j] or not part.any()
            assert not full[i, j] or part.all()


def test_a_windows_blocks_are_no_more_than_it_reaches() -> None:
    length, window = 4096, 512
    intervals = self_intervals(torch.zeros(length, dtype=torch.int64), torch.ones(length, dtype=torch.bool), window)
    mask = block_mask(intervals.lo_Q, intervals.hi_Q, length)
    assert mask is not None
    assert int(mask.kv_num_blocks.max()) == 2
    assert int(mask.full_kv_num_blocks.max()) == window // BLOCK - 1


def test_no_keys_or_no_queries_need_no_mask() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert block_mask(nothing, nothing, 5) is None
    assert block_mask(torch.zeros(3, dtype=torch.int64), torch.full((3,), -1), 0) is None


def test_whole_blocks_compile_into_one_graph_for_every_mask() -> None:
    """Masks of other documents, and what they are read with, add no graph; outputs are those of the plain code."""
    config = small_config(encoder__cross_layers="all")
    model, plain = (build_model(config.with_updates(attention=kind), 0) for kind in ("flex", "dense"))
    counter = CompileCounterWithBackend("aot_eager")
    compile_blocks(model, backend=counter)
    rng = np.random.default_rng(0)
    batches = [
        make_batch([make_document(rng, 20), make_document(rng, length)], elements=64, latents=64)
        for length in (9, 30, 41)
    ]
    with torch.no_grad():
        for batch in batches:
            torch.testing.assert_close(model.logits(batch), plain.logits(batch), rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 5  # self-attention of three stacks, cross-attention of two


def test_rope_and_feed_forward_are_the_same_functions_when_compiled() -> None:
    """With gradients, in fp64: the operations that the compiler sees against the ones written out by hand."""
    torch.manual_seed(0)
    block = Block(16, 2, 1, 24, 1e-5, "dense").double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    intervals = self_intervals(torch.zeros(9, dtype=torch.int64), torch.ones(9, dtype=torch.bool), 4)
    rope = rope_tables(torch.arange(9), 8, 1e4, torch.float64)
    x = torch.randn(9, 16, dtype=torch.float64)
    results = []
    for function in (block, torch.compile(block, backend="aot_eager", fullgraph=True)):
        leaf = x.clone().requires_grad_()
        out = function(leaf, rope, intervals)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), [leaf, *block.parameters()])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_adds_in_fp32_and_multiplies_in_bf16(name: str) -> None:
    """What layers add to is fp32, what goes through a matrix bf16, in every part of every model."""
    model = build_model(MODELS[name], 0)
    types: dict[str, set[torch.dtype]] = {"stream": set(), "norm": set(), "product": set()}
    for module in model.modules():
        kind = {Block: "stream", CrossAttention: "stream", RMSNorm: "norm", torch.nn.Linear: "product"}.get(
            type(module)
        )
        if kind is not None:

            def look(_: Any, inputs: tuple[Any, ...], output: Any, kind: str = kind) -> None:
                seen = [output] if kind == "product" else [x for x in inputs if isinstance(x, torch.Tensor)]
                types[kind] |= {x.dtype for x in seen}

            module.register_forward_hook(look)
    rng = np.random.default_rng(1)
    with torch.autocast("cpu", torch.bfloat16):
        sums = model(make_batch([make_document(rng, 40)]))
    assert types == {"stream": {torch.float32}, "norm": {torch.float32}, "product": {torch.bfloat16}}
    assert sums.nll_text.dtype == torch.float32


def edge_batches() -> dict[str, Batch]:
    rng, unit = np.random.default_rng(0), VOCABULARY.unit_offset
    ids = {
        "text": [BOS, TEXT_MARK, 6, 7, EOS],
        "speech": [BOS, SPEECH_MARK, unit, unit + 1, unit + 2, EOS],
        "one": [BOS],
    }
    return {name: make_batch([document_of(values, rng)], elements=8, latents=8) for name, values in ids.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attention", ["auto", "dense", "flex"])
@pytest.mark.parametrize("batch", ["text", "speech", "one"])
def test_batches_without_one_modality_and_of_one_element_go_through(
    name: str, attention: str, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every path, and every weight has a gradient, since ranks add them up together."""
    monkeypatch.setattr(flex, "_compiled_flex", lambda kind: flex._flex)  # heads of this size are not for the kernel
    model = build_model(MODELS[name].with_updates(attention=attention), 0)
    with torch.autocast("cpu", torch.bfloat16):
        if attention == "flex":  # the CPU has no backward pass for it
            with torch.no_grad():
                sums = model(edge_batches()[batch])
        else:
            sums = model(edge_batches()[batch])
            (sums.nll_text + sums.nll_unit).backward()
            missing = [name for name, p in model.named_parameters() if p.grad is None]
            assert not missing
    assert torch.isfinite(sums.nll_text + sums.nll_unit)


@pytest.mark.parametrize("name", MODELS)
def test_selections_made_beforehand_change_nothing(name: str) -> None:
    batch = make_batch([make_document(np.random.default_rng(s), 40) for s in range(3)])
    model = build_model(MODELS[name], 0)
    assert model(batch) == model(replace(batch, selections=select(batch)))
