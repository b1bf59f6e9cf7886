"""A run's stream of documents: its sources, its patch policy and its packing, put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from model.data.compose import Composer
from model.data.document import Document
from model.data.lanes import Stream
from model.data.patching import BpeAlignedConfig, PatchPolicyConfig, assign_patches
from model.data.sources import TrainingData
from model.training.config import TrainConfig


@dataclass(frozen=True)
class PolicyPatcher:
    """The patch policy as the loader calls it: by step."""

    policy: PatchPolicyConfig
    steps: int
    """Of the curriculum; 1 where there is none."""

    def __call__(self, document: Document, step: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return assign_patches(self.policy, document, min(1.0, step / self.steps), rng)


def make_stream(config: TrainConfig, corpus: TrainingData, split: Literal["train", "validation"]) -> Stream:
    """The stream of one split; with nothing held out, validation reads what training reads."""
    return Stream(
        sources=corpus.sources(config.seed, split if config.data.held_out else "train"),
        composer=Composer(
            corpus.tokenizer, corpus.vocabulary, _wants_token_starts(config.patches), unit_bpe=corpus.unit_bpe
        ),
        patcher=PolicyPatcher(config.patches, config.curriculum_steps or 1),
        packing=config.packing,
        seed=config.seed,
        lanes=config.data.lanes,
    )


def _wants_token_starts(policy: PatchPolicyConfig) -> bool:
    return isinstance(policy, BpeAlignedConfig) or isinstance(getattr(policy, "aligned", None), BpeAlignedConfig)
