"""Continuing prompts: greedy is the argmax of the packed forward pass, rows do not see each other, modalities are kept apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.document import Document
from model.data.draws import generator
from model.inference.continuation import Continuation, Generated, Generator, Wish
from model.inference.sampling import Sampling, choose, probabilities
from model.network.config import ModelConfig
from model.network.lst import build_model
from model.network.vocabulary import BOS, EOS, SPEECH_MARK, TEXT_MARK
from schemas.config import ConfigError
from tests.model.network.cases import VOCABULARY, make_batch, plain_config, policy, small_config
from tests.model.scoring.scoring_cases import composer

CONFIGS = {
    "lst": small_config(encoder__cross_window=2),
    "direct text": small_config(text_path="direct", head="per_modality"),
    "plain": plain_config(),
}
GREEDY = Sampling(temperature=0)
LIMITS = {"max_units": 14, "max_tokens": 9}


def make_generator(config: ModelConfig, policy_name: str = "static", dtype: torch.dtype = torch.float64) -> Generator:
    return Generator(build_model(config, seed=4).to(dtype).eval(), composer(), policy(policy_name))


def prompts_of(owner: Generator) -> list[list[int]]:
    return [owner.text_prompt("abcab"), owner.speech_prompt([3, 3, 1, 0, 5, 5, 2]), owner.text_prompt("g"), [BOS]]


def document_of(ids: list[int]) -> Document:
    array = np.asarray(ids, dtype=np.int32)
    unit = array >= VOCABULARY.unit_offset
    none = np.zeros(len(ids), dtype=bool)
    return Document(
        ids=array, is_unit=unit, patch_start=none, patch_kind=np.full(len(ids), -1, dtype=np.int8), token_start=none,
        target=np.arange(len(ids)) > 0, sample_id="generated",
    )  # fmt: skip


def modalities(result: Generated) -> set[str]:
    return {kind for kind, _ in result.spans}


@pytest.mark.parametrize("policy_name", ["static", "dynamic", "learned"])
@pytest.mark.parametrize("config_name", CONFIGS)
def test_greedy_generation_is_the_argmax_of_the_forward_pass_at_every_step(config_name: str, policy_name: str) -> None:
    owner = make_generator(CONFIGS[config_name], policy_name)
    prompts = prompts_of(owner)
    to: Wish
    for to in ("text", "speech", "free"):
        for prompt, result in zip(prompts, owner.generate(prompts, to, GREEDY, **LIMITS), strict=True):
            ids = prompt + result.ids
            logits = owner.model.logits(make_batch([document_of(ids)], policy_name, 8, 8)).detach()
            first, other = len(prompt), VOCABULARY.unit_offset
            if to != "free" and result.ids[0] in (TEXT_MARK, SPEECH_MARK):
                first += 1  # the mark was put there
            for at in range(first, len(ids)):
                row = logits[at - 1].clone()
                row[: 2 if to == "free" else 5] = -torch.inf
                row[EOS] = logits[at - 1][EOS] if at > 1 else -torch.inf
                in_text = (
                    next(m for m in reversed([TEXT_MARK, *ids[:at]]) if m in (TEXT_MARK, SPEECH_MARK)) == TEXT_MARK
                )
                row[other:] = -torch.inf if in_text else row[other:]
                row[5:other] = row[5:other] if in_text else -torch.inf
                if at == 1:
                    row[5:] = -torch.inf
                elif ids[at - 1] in (TEXT_MARK, SPEECH_MARK):
                    row[3:5] = -torch.inf
                else:
                    row[TEXT_MARK if in_text else SPEECH_MARK] = -torch.inf
                assert ids[at] == int(row.argmax()), (config_name, to, at)


@pytest.mark.parametrize("config_name", CONFIGS)
def test_a_row_alone_equals_the_row_in_a_batch(config_name: str) -> None:
    owner = make_generator(CONFIGS[config_name])
    prompts, sampling = prompts_of(owner), Sampling(temperature=1.3, top_k=6, seed=3)
    together = owner.generate(prompts, "free", sampling, **LIMITS)
    again = owner.generate(prompts, "free", sampling, **LIMITS)
    for row, prompt in enumerate(prompts):
        alone = owner.generate([prompt], "free", sampling, **LIMITS, keys=[str(row)])[0]
        assert alone.ids == together[row].ids == again[row].ids
        assert alone.num_latents == together[row].num_latents
    other = owner.generate(prompts, "free", sampling.with_updates(seed=4), **LIMITS)
    assert [r.ids for r in other] != [r.ids for r in together]


def test_a_forced_modality_never_emits_the_other_and_a_free_one_may() -> None:
    owner = make_generator(CONFIGS["lst"])
    prompts = prompts_of(owner) * 5
    hot = Sampling(temperature=3.0, seed=1)
    for result in owner.generate(prompts, "text", hot, **LIMITS):
        assert modalities(result) <= {"text"}
        assert not len(result.units)
    for result in owner.generate(prompts, "speech", hot, **LIMITS):
        assert modalities(result) <= {"speech"}
        assert result.text == ""
        assert result.ended or len(result.units) == LIMITS["max_units"]
    free = owner.generate(prompts, "free", hot, **LIMITS)
    assert any(modalities(result) == {"text", "speech"} for result in free)
    for prompt, result in zip(prompts, free, strict=True):
        ids = prompt + result.ids
        assert BOS not in result.ids
        assert all(m not in (TEXT_MARK, SPEECH_MARK) or n > 4 or n == EOS for m, n in itertools.pairwise(ids))


def test_streaming_gives_what_generating_gives_and_counts_global_steps() -> None:
    owner = make_generator(CONFIGS["lst"])
    prompts = prompts_of(owner)
    run: Continuation = owner.start(prompts, "free", Sampling(seed=5), **LIMITS)
    rows: list[list[int]] = [[] for _ in prompts]
    seen_early = False
    for element in run:
        rows[element.row].append(element.id)
        seen_early |= len(rows[0]) == 1 and run.results()[0].ids == rows[0]
    assert seen_early, "elements must come while the rest is not made yet"
    whole = owner.generate(prompts, "free", Sampling(seed=5), **LIMITS)
    assert rows == [result.ids for result in whole]
    for prompt, result in zip(prompts, whole, strict=True):
        fed = prompt + result.ids[:-1]  # the last element is shown to nobody
        batch = make_batch([document_of(fed)], "static", 8, 8)
        begun = int(batch.latent_id_N[len(fed) - 1]) + 1
        assert result.num_latents == begun
        assert result.num_global_steps == begun - (not bool(batch.closed_N[len(fed) - 1]))  # but for one still open


def test_limits_end_marks_and_bad_requests() -> None:
    owner = make_generator(CONFIGS["lst"])
    result = owner.generate([[BOS]], "speech", GREEDY, max_units=5, max_tokens=1)[0]
    assert result.ids[0] == SPEECH_MARK
    assert (result.ended, len(result.units)) == (False, 5) or result.ended
    assert owner.text_prompt("") == [BOS]
    with pytest.raises(ConfigError, match="at least one prompt"):
        owner.generate([])
    with pytest.raises(ConfigError, match="2 keys for 1"):
        owner.generate([[BOS]], keys=["a", "b"])
    with pytest.raises(ConfigError, match="units outside"):
        owner.speech_prompt([VOCABULARY.num_units])
    with pytest.raises(ConfigError, match="conditioning: paper"):
        make_generator(small_config(conditioning="paper"))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=9, unique=True),
    st.none() | st.integers(1, 10),
    st.none() | st.floats(0.05, 1.0),
    st.floats(0.2, 3.0),
)
def test_top_k_and_top_p_are_what_their_definitions_say(
    logits: list[float], k: int | None, p: float | None, temperature: float
) -> None:
    weights = {i: float(np.exp(np.float64(x) / temperature)) for i, x in enumerate(logits)}
    ranked = sorted(weights, key=lambda i: -logits[i])[:k]
    total = sum(weights[i] for i in ranked)
    kept, mass = [], 0.0
    for i in ranked:
        if p is not None and mass >= p - 1e-12 and kept:
            break
        kept.append(i)
        mass += weights[i] / total
    expected = torch.zeros(len(logits), dtype=torch.float64)
    for i in kept:
        expected[i] = weights[i] / sum(weights[j] for j in kept)
    sampling = Sampling(temperature=temperature, top_k=k, top_p=p)
    found = probabilities(torch.tensor([logits, logits]), sampling)
    if p is None or abs(mass - p) > 1e-6:
        torch.testing.assert_close(found[1], expected, rtol=1e-6, atol=1e-9)


def test_draws_follow_the_probabilities_and_never_take_the_impossible() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0, 2.0, -torch.inf]]).expand(4000, -1)
    ids = choose(logits, Sampling(), [generator(0, "draw", row) for row in range(4000)])
    share = np.bincount(ids, minlength=5) / 4000
    np.testing.assert_allclose(share, torch.softmax(logits[0], 0).numpy(), atol=0.03)
    assert share[1] == share[4] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config_name", ["lst", "plain"])
def test_packed_weights_give_the_same_logits(config_name: str, dtype: torch.dtype) -> None:
    from model.inference.session import Session

    model = build_model(CONFIGS[config_name], seed=4).to(dtype).eval()
    prompts = [[BOS, SPEECH_MARK, *range(VOCABULARY.unit_offset, VOCABULARY.unit_offset + 9)], [BOS, TEXT_MARK, 6, 7]]
    packed, plain = (Session(model, policy("static"), 2, packed=packed).prefill(prompts) for packed in (True, False))
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(packed, plain, rtol=tolerance, atol=tolerance)
    full = model.logits(make_batch([document_of(prompts[0])]))[-1].detach()
    torch.testing.assert_close(packed[0], full, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("to", "limits"), [("text", {"max_units": 0, "max_tokens": 5}), ("speech", {"max_units": 5, "max_tokens": 0})]
)
def test_a_forced_modality_heeds_its_own_limit_alone(to: Wish, limits: dict[str, int]) -> None:
    """A text model's evaluations allow 0 units, for it has none; its texts were empty."""
    owner = make_generator(CONFIGS["lst"])
    results = owner.generate(prompts_of(owner) * 3, to, Sampling(seed=1), **limits)
    assert all(modalities(result) <= {to} for result in results)
    assert max(sum(len(ids) for _, ids in result.spans) for result in results) == 5


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_model_that_diverged_is_named(temperature: float) -> None:
    owner = make_generator(CONFIGS["plain"])
    with torch.no_grad():
        next(owner.model.parameters()).fill_(torch.nan)
    with pytest.raises(ConfigError, match="likelihoods are no numbers"):
        owner.generate([owner.text_prompt("ab")], "text", Sampling(temperature=temperature), **LIMITS)
