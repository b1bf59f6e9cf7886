"""Generation with caches gives what the packed forward pass gives, and makes one global step per latent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.data.document import Document
from model.inference.session import Session
from model.network.base import SpeechTextModel
from model.network.batch import Batch
from model.network.lst import LSTState, build_model
from model.network.vocabulary import PAD
from tests.model.network.cases import (
    CONFIGS_OF_BOTH,
    POLICIES,
    VOCABULARY,
    make_batch,
    make_document,
    plain_config,
    policy,
    small_config,
    varied_gains,
)

EXACT = {"rtol": 0, "atol": 1e-10}
CONFIGS = {
    **CONFIGS_OF_BOTH,
    "heads per modality": small_config(head="per_modality", decoder__cross_window=1),
    "shared key heads": small_config(global__num_kv_heads=1, global__dim=16),
    "normed queries and keys": small_config(global__num_kv_heads=1, global__dim=16, qk_norm=True),
    "plain, heads per modality": plain_config(head="per_modality"),
}


def feed_batch(model: SpeechTextModel, batches: list[Batch], delays: list[int]) -> tuple[list[torch.Tensor], object]:
    """Each batch (one document) as a row that starts late by its delay; the logits of each row, and the state."""
    state = model.make_state(len(batches), capacity=4)
    rows: list[list[torch.Tensor]] = [[] for _ in batches]
    paper = model.config.conditioning == "paper"
    for time in range(max(len(b.ids_N) + d for b, d in zip(batches, delays, strict=True))):
        ids, begins, closed = [], [], []
        for batch, delay in zip(batches, delays, strict=True):
            at = time - delay
            live = 0 <= at < len(batch.ids_N)
            ids.append(int(batch.ids_N[at]) if live else PAD)
            begins.append(live and (at == 0 or bool(batch.latent_id_N[at] > batch.latent_id_N[at - 1])))
            ends = live and at + 1 < len(batch.ids_N) and bool(batch.latent_id_N[at + 1] > batch.latent_id_N[at])
            closed.append(live and (ends if paper and at + 1 < len(batch.ids_N) else bool(batch.closed_N[at])))
        with torch.inference_mode():
            logits = model.step(state, np.array(ids), np.array(begins), np.array(closed))
        for row, element in enumerate(ids):
            if element != PAD:
                rows[row].append(logits[row])
            else:
                assert torch.isneginf(logits[row]).all()
    return [torch.stack(row) for row in rows], state


def documents(seed: int, count: int) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [make_document(rng, int(rng.integers(20, 45))) for _ in range(count)]


@pytest.mark.parametrize("config_name", CONFIGS)
@pytest.mark.parametrize("policy_name", ["static", "aligned", "dynamic", "learned", "static1"])
def test_steps_equal_the_packed_forward_pass(config_name: str, policy_name: str) -> None:
    """Also rows with different boundaries, starting at different times, equal each row alone."""
    model = varied_gains(build_model(CONFIGS[config_name], seed=2).double())
    batches = [make_batch([item], policy_name) for item in documents(seed=5, count=3)]
    stepped, _ = feed_batch(model, batches, delays=[0, 3, 1])
    for batch, logits in zip(batches, stepped, strict=True):
        torch.testing.assert_close(logits, model.logits(batch).detach(), **EXACT)


@pytest.mark.parametrize("config_name", ["own patch", "windowed", "direct text"])
@pytest.mark.parametrize("policy_name", ["static", "aligned", "dynamic"])
def test_one_global_step_is_made_per_latent(
    config_name: str, policy_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(CONFIGS[config_name], seed=2).double()
    calls: list[int] = []
    step = type(model.global_transformer).step
    monkeypatch.setattr(
        type(model.global_transformer),
        "step",
        lambda self, x, rows, s: calls.extend(rows.tolist()) or step(self, x, rows, s),
    )
    batches = [make_batch([item], policy_name) for item in documents(seed=6, count=3)]
    _, state = feed_batch(model, batches, delays=[0, 0, 2])
    assert isinstance(state, LSTState)
    for row, batch in enumerate(batches):
        assert calls.count(row) == batch.num_latents  # documents end with EOS, which is complete
        assert int(state.global_transformer.num_latents_B[row]) == batch.num_latents


@pytest.mark.parametrize("policy_name", ["static", "static1", "dynamic", "learned"])
@pytest.mark.parametrize("config_name", ["own patch", "direct text", "plain"])
def test_a_session_patches_as_training_does(config_name: str, policy_name: str) -> None:
    model = build_model(CONFIGS[config_name], seed=2).double()
    items = documents(seed=7, count=2)
    session = Session(model, policy(policy_name), num_rows=2)
    logits = session.prefill([item.ids.tolist() for item in items])
    for item, row in zip(items, logits, strict=True):
        torch.testing.assert_close(row, model.logits(make_batch([item], policy_name))[-1].detach(), **EXACT)


@pytest.mark.parametrize("policy_name", ["mixed", "curriculum"])
def test_policies_with_a_part_that_needs_no_alignment_generate_with_it(policy_name: str) -> None:
    part = policy(policy_name).otherwise
    item = documents(seed=8, count=1)[0]
    model = build_model(CONFIGS["own patch"], seed=2).double()
    by_mix, by_part = (Session(model, p, 1).prefill([item.ids.tolist()]) for p in (policy(policy_name), part))
    assert torch.equal(by_mix, by_part)


def test_local_caches_hold_their_window_and_the_global_cache_one_entry_per_latent() -> None:
    config = small_config(encoder__window=5, decoder__window=4, decoder__cross_window=3)
    model = build_model(config, seed=0)
    session = Session(model, policy("static"), num_rows=1, capacity=2)
    item = make_document(np.random.default_rng(3), 60)
    session.prefill([item.ids.tolist()])
    state = session.state
    assert state.encoder.layers.cache.capacity == 5
    assert state.decoder.layers.cache.capacity == 4
    assert state.decoder.cross_cache.capacity == 3 * 2
    latents = make_batch([item]).num_latents
    assert int((state.global_transformer.layers.cache.tag_BT[0] >= 0).sum()) == latents
    assert state.global_transformer.layers.cache.capacity < 2 * latents


@pytest.mark.parametrize("policy_name", sorted(set(POLICIES) & {"aligned", "merged", "bpe_aligned"}))
def test_a_policy_that_needs_alignment_cannot_generate(policy_name: str) -> None:
    model = build_model(CONFIGS["own patch"], seed=0)
    with pytest.raises(ValueError, match="needs alignment"):
        Session(model, policy(policy_name), num_rows=1)


def test_what_a_session_cannot_do_is_said() -> None:
    with pytest.raises(ValueError, match="conditioning: causal"):
        Session(build_model(CONFIGS["published"], seed=0), policy("static"), num_rows=1)
    session = Session(build_model(CONFIGS["own patch"], seed=0), policy("static"), num_rows=2)
    with pytest.raises(ValueError, match="one id per row"):
        session.feed([1])
    with pytest.raises(ValueError, match="outside the vocabulary"):
        session.feed([1, VOCABULARY.size])
    with pytest.raises(ValueError, match="at least one element"):
        session.prefill([[1], []])
