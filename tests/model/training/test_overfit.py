"""The model can learn: twenty utterances by heart, in well under two minutes on a CPU."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from model.data.document import Document
from model.data.packing import PackingConfig, pack, whole
from model.data.patching import StaticConfig, assign_patches
from model.network.batch import LossSums
from model.network.config import ModelConfig
from model.network.lst import build_model
from model.network.vocabulary import Vocabulary
from schemas.config import load_config
from tests.model.network.cases import document_of

VOCABULARY = Vocabulary(num_text=40, num_units=60)
UTTERANCES = 20


def utterances() -> list[Document]:
    """Text then speech: what is spoken is drawn at random, so nothing but memory predicts it."""
    rng = np.random.default_rng(0)
    items = []
    for index in range(UTTERANCES):
        text = rng.integers(VOCABULARY.text_offset, VOCABULARY.unit_offset, 8).tolist()
        units = rng.integers(VOCABULARY.unit_offset, VOCABULARY.size, 32).tolist()
        items.append(document_of([1, 3, *text, 4, *units, 2], rng, f"utterance {index}", VOCABULARY))
    return items


@pytest.mark.parametrize("overrides", [[], ["text_path=direct"]], ids=["local text", "direct text"])
def test_tiny_learns_twenty_utterances_by_heart(overrides: list[str]) -> None:
    config = load_config(ModelConfig, "configs/model/tiny.yaml", overrides).with_vocabulary(VOCABULARY)
    model = build_model(config, seed=0)
    rng = np.random.default_rng(0)
    patched = [whole(d, *assign_patches(StaticConfig(policy="static", size=4), d, 0, rng)) for d in utterances()]
    size = sum(len(piece) for piece in patched)
    batch = pack(patched, PackingConfig(elements=size, latents=sum(piece.num_latents for piece in patched))).check()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0, fused=True)
    sums: LossSums | None = None
    for _ in range(45):
        sums = model(batch)
        ((sums.nll_text + sums.nll_unit) / (sums.num_text + sums.num_unit)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    assert sums is not None
    # No model can know which of the twenty comes: ln 20 nats each, all of it in the text that opens them.
    floor = UTTERANCES * math.log(UTTERANCES)
    assert float(sums.nll_unit / sums.num_unit) < 0.02
    assert float(sums.nll_text) < floor * 1.1
