"""A layer in one call is the layer in torch's calls: same logits, whatever has been generated before, and it is really used."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from numba.core import caching

from model.inference.session import Session
from model.network import stepping
from model.network.layers import fused
from model.network.lst import LSTState, build_model
from tests.model.inference.test_prefill import prompt_of
from tests.model.network.cases import policy, small_config, varied_gains


@pytest.mark.parametrize("policy_name", ["static", "dynamic"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"encoder__cross_window": 3, "encoder__cross_layers": "all"},
        {"encoder__num_kv_heads": 1, "text_path": "direct", "head": "per_modality"},
    ],
    ids=["own patch", "windowed", "shared keys, direct text"],
)  # fmt: skip
def test_fused_steps_equal_the_plain_ones(changes: dict, policy_name: str) -> None:
    model = varied_gains(build_model(small_config(**changes), 3))
    rng = np.random.default_rng(1)
    prompt, following = prompt_of(rng, 7), prompt_of(rng, 40)
    with (
        patch.object(fused, "block_step", wraps=fused.block_step) as block,
        patch.object(fused, "cross_step", wraps=fused.cross_step) as cross,
    ):
        plain, ours = (Session(model, policy(policy_name), 1, capacity=4, packed=packed) for packed in (False, True))
        torch.testing.assert_close(ours.prefill([prompt]), plain.prefill([prompt]), rtol=1e-4, atol=1e-4)
        for element in following:
            torch.testing.assert_close(ours.feed([element]), plain.feed([element]), rtol=1e-4, atol=1e-4)
    assert block.call_count > 40
    assert cross.call_count > 10
    assert isinstance(ours.state, LSTState)
    assert isinstance(ours.state.decoder.layers.blocks[0], stepping.FusedBlockSteps)
    assert isinstance(ours.state.global_transformer.layers.blocks[0], stepping.BlockSteps)


def test_what_is_not_for_it_is_left_to_torch() -> None:
    """Several rows, other types, queries and keys that are normed."""
    for config, rows, dtype in (
        (small_config(), 2, torch.float32),
        (small_config(), 1, torch.float64),
        (small_config(qk_norm=True), 1, torch.float32),
    ):
        state = Session(build_model(config, 3).to(dtype), policy("static"), rows).state
        assert isinstance(state, LSTState)
        assert all(isinstance(block, stepping.BlockSteps) for block in state.decoder.layers.blocks)


def test_where_nothing_can_be_kept_a_process_compiles_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is read-only, generation ended in a traceback."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    def double(x: float) -> float:
        return 2 * x

    assert fused._compiled(double)(3.0) == 6.0
