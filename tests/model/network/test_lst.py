"""LST as a function of a packed batch: documents do not see each other, and the loss is what the logits say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model.network import init
from model.network.batch import Batch, LossSums
from model.network.init import draw_parameter, init_weights
from model.network.lst import LST, build_model
from model.network.vocabulary import Vocabulary
from tests.model.network.cases import (
    CONFIGS_OF_BOTH,
    POLICIES,
    document_of,
    make_batch,
    make_document,
    small_config,
)

EXACT = {"rtol": 0, "atol": 1e-10}
CONFIGS = {
    **CONFIGS_OF_BOTH,
    "heads per modality": small_config(head="per_modality"),
    "shared key heads": small_config(global__num_kv_heads=1),
    "normed queries and keys": small_config(global__num_kv_heads=1, qk_norm=True),
    "latents as wide as the global part": small_config(global__dim=16),
}


def documents(seed: int, count: int = 5) -> list:
    rng = np.random.default_rng(seed)
    return [make_document(rng, int(rng.integers(6, 40)), f"document {i}") for i in range(count)]


@pytest.mark.parametrize("config_name", CONFIGS)
@pytest.mark.parametrize("policy_name", POLICIES)
def test_packed_equals_separate(config_name: str, policy_name: str) -> None:
    model = build_model(CONFIGS[config_name], seed=1).double()
    items = documents(seed=3)
    if policy_name in ("mixed", "curriculum"):
        items = items[:1]  # the draw differs from document to document
    packed = model.logits(make_batch(items, policy_name, elements=200, latents=200))
    start = 0
    for item in items:
        alone = model.logits(make_batch([item], policy_name))
        torch.testing.assert_close(packed[start : start + len(item.ids)], alone, **EXACT)
        start += len(item.ids)


@pytest.mark.parametrize("config_name", CONFIGS)
def test_loss_does_not_depend_on_the_packing_order(config_name: str) -> None:
    model = build_model(CONFIGS[config_name], seed=1).double()
    items = documents(seed=4)
    forward, backward = (model(make_batch(order)) for order in (items, items[::-1]))
    for one, other in zip(forward, backward, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("config_name", CONFIGS)
def test_loss_is_the_sum_over_targets_of_what_the_logits_say(config_name: str) -> None:
    model = build_model(CONFIGS[config_name], seed=1).double()
    batch = make_batch(documents(seed=5), elements=250, latents=250)
    sums = model(batch)
    logp = model.logits(batch).log_softmax(-1).detach()
    expected = {False: [0.0, 0], True: [0.0, 0]}
    for element in batch.loss_mask_N.nonzero().flatten().tolist():
        entry = expected[bool(batch.is_unit_N[element])]
        entry[0] -= float(logp[element - 1, batch.ids_N[element]])
        entry[1] += 1
    assert sums.nll_text.item() == pytest.approx(expected[False][0], abs=1e-9)
    assert sums.nll_unit.item() == pytest.approx(expected[True][0], abs=1e-9)
    assert (int(sums.num_text), int(sums.num_unit)) == (expected[False][1], expected[True][1])
    assert int(sums.num_text + sums.num_unit) == int(batch.loss_mask_N.sum())


@pytest.mark.parametrize("config_name", CONFIGS)
def test_tiled_attention_gives_the_gradients_of_the_dense_reference(config_name: str) -> None:
    batch = make_batch(documents(seed=6), elements=300, latents=300)
    gradients = []
    for backend in ("dense", "blocks"):
        model = build_model(CONFIGS[config_name].with_updates(attention=backend), seed=1).double()
        sums = model(batch)
        (sums.nll_text + 2 * sums.nll_unit).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradients[1][name], gradient, **EXACT, msg=lambda m, n=name: f"{n}: {m}")


def test_a_batch_without_targets_of_one_kind_has_a_loss_and_gradients_for_every_parameter() -> None:
    """FSDP reduces every parameter's gradient on every rank: none may be missing because a batch holds text alone."""
    for config in (CONFIGS["heads per modality"], CONFIGS["direct text"]):
        model = build_model(config, seed=0)
        ids = np.array([1, 3, 5, 6, 7, 2])
        rng = np.random.default_rng(0)
        sums = model(make_batch([document_of(ids.tolist(), rng)]))
        (sums.nll_text + sums.nll_unit).backward()
        assert int(sums.num_unit) == 0
        assert float(sums.nll_unit) == 0
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    config = CONFIGS["own patch"]
    first, second = build_model(config, seed=1), build_model(config, seed=1)
    with torch.device("meta"):
        late = build_model(config, seed=5)
    late.to_empty(device="cpu")
    init_weights(late, seed=1)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name)), name
        assert torch.equal(parameter, late.get_parameter(name)), name
    other = build_model(config, seed=2)
    assert all(
        not torch.equal(parameter, other.get_parameter(name))
        for name, parameter in first.named_parameters()
        if parameter.ndim > 1
    )


ONE_RANK_OF_FOUR = """
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from model.network.init import init_weights
from model.network.layers.blocks import Block
from model.network.lst import build_model
from tests.model.network.cases import small_config

RANK = 2
whole = dict(build_model(small_config(), seed=7).named_parameters())
torch.distributed.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=4)
mesh = init_device_mesh("cpu", (4,))
with torch.device("meta"):
    model = build_model(small_config(), seed=0)
for layer in [module for module in model.modules() if isinstance(module, Block)]:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
model.to_empty(device="cpu")
init_weights(model, seed=7)
for name, parameter in model.named_parameters():
    parts = whole[name].chunk(4)
    mine = parts[RANK] if RANK < len(parts) else whole[name][:0]
    assert torch.equal(parameter.to_local(), mine), name
    print(name)
"""


def test_a_rank_of_a_sharded_model_draws_its_part_of_the_same_weights() -> None:
    """One rank of four, alone: nothing is sent, so a group of fakes will do. A process of its own, because groups are global."""
    command = [sys.executable, "-c", ONE_RANK_OF_FOUR]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    names = [name for name, _ in build_model(small_config(), seed=0).named_parameters()]
    assert done.stdout.split() == names


def test_initial_weights_have_the_stated_spread() -> None:
    drawn = draw_parameter("some.weight", torch.Size([400, 256]), seed=0)
    cut = 3 * 256**-0.5
    assert float(drawn.abs().max()) <= cut
    assert float(drawn.std()) == pytest.approx(256**-0.5 * 0.9866, rel=0.01)  # a normal cut at 3 deviations


def test_a_model_without_vocabulary_is_refused() -> None:
    config = small_config(vocabulary=None)
    with pytest.raises(ValueError, match="vocabulary"):
        build_model(config, seed=0)
    assert isinstance(build_model(config.with_vocabulary(Vocabulary(num_text=3, num_units=4)), seed=0), LST)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"encoder__dim": 16}, "must equal patch_decoder.dim"),
        ({"text_path": "direct"}, "head: per_modality"),
        ({"conditioning": None}, "also needs conditioning"),
        ({"kind": "plain"}, "has no patch_encoder"),
        ({"global__num_heads": 5}, "num_heads"),
        ({"encoder__windw": 5}, "did you mean 'window'"),
    ],
)
def test_a_configuration_that_cannot_work_says_why(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_config(**changes)


def test_loss_sums_reach_the_tensors_that_fsdp_looks_for() -> None:
    """FSDP walks what a module returns as a pytree: a plain dataclass would hide the loss from its backward hooks."""
    sums = LossSums(*(torch.tensor(float(i)) for i in range(6)))
    leaves = torch.utils._pytree.tree_leaves(sums)
    assert len(leaves) == 6
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)


def test_extra_budget_changes_nothing() -> None:
    model = build_model(CONFIGS["windowed"], seed=0).double()
    items = documents(seed=8, count=2)
    tight, roomy = make_batch(items), make_batch(items, elements=300, latents=200)
    assert isinstance(roomy, Batch)
    for one, other in zip(model(tight), model(roomy), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_rows_of_a_large_matrix_are_drawn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that holds some rows draws what it would hold of the whole, wherever blocks begin and end."""
    monkeypatch.setattr(init, "BLOCK", 50)
    shape = torch.Size([61, 8])
    whole = draw_parameter("w", shape, 3)
    for first, last in [(0, 61), (0, 1), (5, 7), (11, 30), (60, 61), (61, 61)]:
        assert torch.equal(draw_parameter("w", shape, 3, slice(first, last)), whole[first:last])
    assert float(whole.std()) == pytest.approx(8**-0.5 * 0.9866, rel=0.1)
    assert len(torch.unique(whole)) == whole.numel()
