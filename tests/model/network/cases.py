"""Small documents, policies and configurations that the tests of the model share."""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from model.data.document import Document
from model.data.packing import PackingConfig, pack, whole
from model.data.patching import PatchPolicyConfig, assign_patches
from model.network.base import SpeechTextModel
from model.network.batch import Batch
from model.network.config import ModelConfig
from model.network.vocabulary import BOS, EOS, SPEECH_MARK, TEXT_MARK, Vocabulary
from schemas.models.boundaries import fit, with_mean_length

VOCABULARY = Vocabulary(num_text=7, num_units=9)


def _boundaries() -> str:
    """A table fitted on random units: its cuts depend on the last three."""
    rng = np.random.default_rng(0)
    spans = [rng.integers(0, 9, 40) for _ in range(50)]
    table = fit("words", spans, [rng.random(40) < 0.3 for _ in spans], num_units=9, order=3, min_count=1)
    folder = tempfile.TemporaryDirectory(prefix="boundaries-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "boundaries.npz"
    with_mean_length(table, spans, 3.0, 1, 6).save(path)
    return str(path)


ALIGNED = {"policy": "aligned", "silence": "separate", "max_size": 6}
MERGED = {"policy": "aligned", "silence": "merged", "max_size": 100}
BPE = {"policy": "bpe_aligned", "max_size": 5}
STATIC = {"policy": "static", "size": 4}
DYNAMIC = {"policy": "dynamic", "rule": "novelty", "min_size": 2, "max_size": 5}
LEARNED = {"policy": "learned", "boundaries": _boundaries(), "unit_offset": VOCABULARY.unit_offset}
NGRAMS = {"sizes": [2, 3], "buckets": 13}
POLICIES: dict[str, dict[str, Any]] = {
    "static": STATIC,
    "static1": {"policy": "static", "size": 1},
    "aligned": ALIGNED,
    "merged": MERGED,
    "bpe_aligned": BPE,
    "dynamic": DYNAMIC,
    "learned": LEARNED,
    "mixed": {"policy": "mixed", "aligned": ALIGNED, "otherwise": STATIC, "probability": 0.5},
    "curriculum": {"policy": "curriculum", "aligned": MERGED, "otherwise": DYNAMIC, "tau1": 0.25, "tau2": 0.75},
}


def policy(name: str) -> PatchPolicyConfig:
    """A policy by name."""
    parsed: PatchPolicyConfig = TypeAdapter(PatchPolicyConfig).validate_python(POLICIES[name])
    return parsed


def small_config(**changes: Any) -> ModelConfig:
    """LST small enough for fp64 and loops; `changes` may reach into parts as `encoder__cross_window=3`."""
    stack = {"num_heads": 2, "rope_theta": 1e4}
    document: dict[str, Any] = {
        "kind": "lst",
        "patch_encoder": {
            **stack, "num_layers": 2, "dim": 8, "hidden_dim": 12, "window": 5, "cross_heads": 2, "cross_window": 1,
            "cross_layers": "last",
        },
        "global_transformer": {**stack, "num_layers": 2, "dim": 12, "num_heads": 2, "hidden_dim": 16},
        "patch_decoder": {
            **stack, "num_layers": 2, "dim": 8, "hidden_dim": 12, "window": 4, "cross_heads": 4, "cross_window": 3,
        },
        "vectors_per_patch": 2,
        "conditioning": "causal",
        "text_path": "local",
        "head": "joint",
        "vocabulary": VOCABULARY.model_dump(),
    }  # fmt: skip
    parts = {"encoder": "patch_encoder", "global": "global_transformer", "decoder": "patch_decoder"}
    for key, value in changes.items():
        part, _, field = key.partition("__")
        if field:
            document[parts[part]][field] = value
        else:
            document[key] = value
    return ModelConfig.model_validate(document)


def plain_config(**changes: Any) -> ModelConfig:
    """The plain baseline at the same scale."""
    return ModelConfig.model_validate(
        {
            "kind": "plain",
            "global_transformer": {"num_layers": 2, "dim": 12, "num_heads": 2, "hidden_dim": 16, "rope_theta": 1e4},
            "head": "joint",
            "vocabulary": VOCABULARY.model_dump(),
            **changes,
        }
    )


CONFIGS_OF_BOTH = {
    "own patch": small_config(),
    "windowed": small_config(encoder__cross_window=3, decoder__cross_window=4, encoder__cross_layers="all"),
    "published": small_config(conditioning="paper", encoder__cross_window=3),
    "direct text": small_config(text_path="direct", head="per_modality", encoder__cross_window=2),
    "n-grams": small_config(text_path="direct", head="per_modality", ngrams=NGRAMS),
    "plain": plain_config(),
    "plain, n-grams": plain_config(ngrams=NGRAMS),
}
"""Models that both forward passes and steps are tried with."""


def make_document(rng: np.random.Generator, length: int, name: str = "document") -> Document:
    """[BOS] then spans of text and of speech, each with its mark, then [EOS]; alignment drawn at random."""
    ids = [BOS]
    while len(ids) < length - 1:
        speech = bool(rng.random() < 0.6)
        size = int(rng.integers(1, 12))
        first, stop = (VOCABULARY.unit_offset, VOCABULARY.size) if speech else (5, VOCABULARY.unit_offset)
        ids += [SPEECH_MARK if speech else TEXT_MARK, *rng.integers(first, stop, size).tolist()]
    return document_of([*ids[: length - 1], EOS], rng, name)


def document_of(
    ids: list[int], rng: np.random.Generator, name: str = "document", vocabulary: Vocabulary = VOCABULARY
) -> Document:
    """A document of these ids, with random alignment that begins a patch at each speech span."""
    array = np.asarray(ids, dtype=np.int32)
    unit = array >= vocabulary.unit_offset
    opens = unit & ~np.concatenate([[False], unit[:-1]])
    target = np.ones(len(ids), dtype=bool)
    target[0] = False
    start = opens | (unit & (rng.random(len(ids)) < 0.3))
    kind_of_patch = rng.integers(0, 3, len(ids))[np.cumsum(start) - 1]
    return Document(
        ids=array,
        is_unit=unit,
        patch_start=start,
        patch_kind=np.where(unit, kind_of_patch, -1).astype(np.int8),
        token_start=unit & (opens | (rng.random(len(ids)) < 0.3)),
        target=target,
        sample_id=name,
    )


def make_batch(
    documents: list[Document], policy_name: str = "static", elements: int = 0, latents: int = 0, seed: int = 0
) -> Batch:
    """The documents packed under a policy, at curriculum progress 1/2; budgets that are too small are raised."""
    rng = np.random.default_rng(seed)
    pieces = [whole(item, *assign_patches(policy(policy_name), item, 0.5, rng)) for item in documents]
    budget = PackingConfig(
        elements=max(elements, sum(len(piece) for piece in pieces)),
        latents=max(latents, sum(piece.num_latents for piece in pieces)),
        min_piece=2,
    )
    return pack(pieces, budget).check()


def varied_gains(model: SpeechTextModel) -> SpeechTextModel:
    """The model with gains that are no longer one, so that one which is left out shows."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return model
