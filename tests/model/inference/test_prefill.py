"""A prompt read in one pass leaves everything as its elements one by one would have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.inference.session import Session
from model.network.lst import build_model
from model.network.vocabulary import BOS, SPEECH_MARK, TEXT_MARK
from tests.model.inference.test_session import CONFIGS, EXACT
from tests.model.network.cases import VOCABULARY, policy, small_config, varied_gains


def prompt_of(rng: np.random.Generator, length: int) -> list[int]:
    ids = [BOS]
    while len(ids) < length:
        speech, unit = bool(rng.random() < 0.6), VOCABULARY.unit_offset
        first, stop = (unit, VOCABULARY.size) if speech else (VOCABULARY.text_offset, unit)
        ids += [SPEECH_MARK if speech else TEXT_MARK, *rng.integers(first, stop, int(rng.integers(1, 14))).tolist()]
    return ids[:length]


def within_the_span(rng: np.random.Generator, prompt: list[int]) -> list[int]:
    """Six units, at first more of the prompt's open speech span where it ends in one."""
    units = rng.integers(VOCABULARY.unit_offset, VOCABULARY.size, 6).tolist()
    return units if prompt[-1] >= VOCABULARY.unit_offset else [SPEECH_MARK, *units[1:]]


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "published"])
@pytest.mark.parametrize("policy_name", ["static", "dynamic", "learned", "static1"])
@pytest.mark.parametrize("lengths", [(1,), (37,), (40, 40), (3, 29, 1)], ids=str)
def test_what_follows_a_prompt_is_the_same(name: str, policy_name: str, lengths: tuple[int, ...]) -> None:
    """Logits after prompts of any lengths (beyond all windows), and after each of the next elements; counts of latents too."""
    model = varied_gains(build_model(CONFIGS[name], 3).double())
    rng = np.random.default_rng(len(lengths))
    prompts = [prompt_of(rng, length) for length in lengths]
    one_pass, stepped = (Session(model, policy(policy_name), len(prompts), capacity=4, packed=False) for _ in range(2))
    torch.testing.assert_close(one_pass.prefill(prompts), stepped.one_by_one(prompts), **EXACT)
    following = [[*within_the_span(rng, prompt), *prompt_of(rng, 25)[1:]] for prompt in prompts]
    for ids in zip(*following, strict=True):
        torch.testing.assert_close(one_pass.feed(ids), stepped.feed(ids), **EXACT)
    assert np.array_equal(one_pass.num_latents_B, stepped.num_latents_B)
    assert np.array_equal(one_pass.num_global_steps_B, stepped.num_global_steps_B)


@pytest.mark.parametrize("text_path", ["local", "direct"])
def test_the_decoder_runs_over_the_end_of_a_long_prompt_alone(text_path: str) -> None:
    """Three layers with windows of four: no more than a window for each layer from there up, and nothing changes by that."""
    config = small_config(
        text_path=text_path, head="per_modality", decoder__num_layers=3, decoder__window=4, encoder__window=5
    )
    model = varied_gains(build_model(config, 3).double())
    rng = np.random.default_rng(5)
    prompts = [prompt_of(rng, 90), prompt_of(rng, 7)]
    rows: list[int] = []
    for layer in model.decoder.layers:
        layer.register_forward_hook(lambda _, inputs, output: rows.append(len(inputs[0])))
    one_pass, stepped = (Session(model, policy("static"), 2, capacity=4, packed=False) for _ in range(2))
    torch.testing.assert_close(one_pass.prefill(prompts), stepped.one_by_one(prompts), **EXACT)
    short = sum(id >= VOCABULARY.unit_offset or id == SPEECH_MARK for id in prompts[1]) if text_path == "direct" else 7
    assert rows == [12 + min(short, 12), 8 + min(short, 8), 4 + min(short, 4)]
    following = [within_the_span(rng, prompt) for prompt in prompts]
    for ids in zip(*following, strict=True):
        torch.testing.assert_close(one_pass.feed(ids), stepped.feed(ids), **EXACT)


def test_later_prompts_are_fed_as_they_come() -> None:
    model = build_model(CONFIGS["windowed"], 3).double()
    rng = np.random.default_rng(0)
    first, second = prompt_of(rng, 12), prompt_of(rng, 9)
    twice, whole = (Session(model, policy("static"), 1, packed=False) for _ in range(2))
    twice.prefill([first])
    torch.testing.assert_close(twice.prefill([second]), whole.prefill([[*first, *second]]), **EXACT)


def test_a_prompt_with_an_unknown_element_is_refused() -> None:
    session = Session(build_model(CONFIGS["plain"], 0), policy("static"), 1)
    with pytest.raises(ValueError, match=r"row 0: id 99 is no element of the vocabulary"):
        session.prefill([[BOS, 99]])
