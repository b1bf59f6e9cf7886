"""Row i predicts element i + 1 from elements 0..i alone: exhaustively, bit for bit, in fp64.

Bit for bit on the dense reference. Two paths have shapes that depend on what follows, so that rounding, and nothing else, may
differ: the tiled attention (as many keys as a tile can reach) and heads per modality (as many rows as there is speech).
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.data.document import Document
from model.network.base import SpeechTextModel
from model.network.config import ModelConfig
from model.network.lst import build_model
from model.network.vocabulary import TEXT_MARK
from tests.model.network.cases import (
    NGRAMS,
    POLICIES,
    VOCABULARY,
    make_batch,
    make_document,
    plain_config,
    small_config,
)

LENGTH = 24
ROUNDING = 1e-12
CONFIGS = {
    "own patch": small_config(attention="dense"),
    "windowed": small_config(
        attention="dense", encoder__cross_window=3, decoder__cross_window=4, encoder__cross_layers="all"
    ),
    "direct text": small_config(attention="dense", text_path="direct", head="per_modality", encoder__cross_window=2),
    "heads per modality": small_config(attention="dense", head="per_modality", decoder__cross_window=1),
    "n-grams": small_config(attention="dense", ngrams=NGRAMS),
}


@functools.cache
def cached_model(config: ModelConfig) -> SpeechTextModel:
    return build_model(config, seed=3).double()


def logits_of(config: ModelConfig, document: Document, policy_name: str) -> torch.Tensor:
    model = cached_model(config)
    batch = make_batch([document], policy_name, elements=LENGTH + 4, latents=LENGTH + 4, seed=5)
    with torch.no_grad():
        return model.logits(batch)


def perturb(document: Document, element: int, rng: np.random.Generator) -> Document:
    """Another element at this place, of either modality, and everything after it drawn anew, alignment included."""
    other = make_document(rng, LENGTH)
    choices = [TEXT_MARK, *range(5, VOCABULARY.size)]
    ids = np.concatenate([document.ids[:element], other.ids[element:]])
    ids[element] = rng.choice([c for c in choices if c != document.ids[element]])
    unit = ids >= VOCABULARY.unit_offset
    opens = unit & ~np.concatenate([[False], unit[:-1]])

    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(document, name)[:element], getattr(other, name)[element:]])

    return replace(
        document,
        ids=ids,
        is_unit=unit,
        patch_start=(join("patch_start") & unit) | opens,
        patch_kind=np.where(unit, np.maximum(join("patch_kind"), 0), -1).astype(np.int8),
        token_start=(join("token_start") & unit) | opens,
    )


def leaks(config: ModelConfig, policy_name: str, seed: int, tolerance: float = 0.0) -> list[int]:
    """The elements whose own prediction, or one before it, changes when they and what follows them change."""
    rng = np.random.default_rng(seed)
    document = make_document(rng, LENGTH)
    reference = logits_of(config, document, policy_name)
    found = []
    for element in range(1, LENGTH):
        changed = logits_of(config, perturb(document, element, rng), policy_name)
        same = torch.isclose(changed[:element], reference[:element], rtol=0, atol=tolerance)
        if not same.all():
            found.append(element)
    return found


@pytest.mark.parametrize("policy_name", POLICIES)
@pytest.mark.parametrize("config_name", CONFIGS)
def test_no_element_changes_its_own_prediction_or_an_earlier_one(config_name: str, policy_name: str) -> None:
    config = CONFIGS[config_name]
    tolerance = 0.0 if config.head == "joint" else ROUNDING
    assert leaks(config, policy_name, len(config_name), tolerance) == []


@pytest.mark.parametrize("config_name", CONFIGS)
def test_the_tiled_path_is_causal_up_to_rounding(config_name: str) -> None:
    config = CONFIGS[config_name].with_updates(attention="blocks")
    for policy_name in ("static", "aligned", "dynamic", "learned"):
        assert leaks(config, policy_name, seed=9, tolerance=ROUNDING) == []


def test_the_plain_baseline_is_causal() -> None:
    assert leaks(plain_config(attention="dense"), "static", seed=1) == []


@pytest.mark.parametrize("policy_name", ["static", "aligned", "dynamic", "learned"])
def test_published_conditioning_leaks_the_end_of_a_patch(policy_name: str) -> None:
    """The known leak: under `conditioning: paper` a row learns whether the *next* element begins a patch."""
    assert leaks(small_config(conditioning="paper"), policy_name, seed=0, tolerance=1e-6) != []


def test_published_conditioning_leaks_nothing_at_patch_size_one() -> None:
    """With patches of one element every patch is complete when it is read, so both rules are the same rule."""
    document = make_document(np.random.default_rng(0), LENGTH)
    causal, paper = (logits_of(small_config(conditioning=rule), document, "static1") for rule in ("causal", "paper"))
    assert torch.equal(causal, paper)


@pytest.mark.parametrize("config_name", CONFIGS)
def test_every_earlier_element_of_the_document_reaches_the_last_row(config_name: str) -> None:
    """The other side of causality: what may be read is read. (Without it a model that sees nothing would pass.)"""
    config, rng = CONFIGS[config_name], np.random.default_rng(2)
    document = make_document(rng, LENGTH)
    reference = logits_of(config, document, "static")[LENGTH - 1]
    for element in range(1, LENGTH):
        ids = document.ids.copy()
        first, stop = (
            (VOCABULARY.unit_offset, VOCABULARY.size) if document.is_unit[element] else (5, VOCABULARY.unit_offset)
        )
        if ids[element] < 5:
            continue  # a mark or EOS: changing it would change what the rows are
        ids[element] = first + (ids[element] - first + 1) % (stop - first)
        changed = logits_of(config, replace(document, ids=ids), "static")[LENGTH - 1]
        assert not torch.equal(changed, reference), f"element {element}"
