"""Baselines that match a model: configurations solved for, not written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from model.cost.flops import ForwardWork, forward_flops
from model.network.base import SpeechTextModel
from model.network.config import ModelConfig
from model.network.lst import build_model
from schemas.errors import ConfigError

MAX_LAYERS = 512


def empty_model(config: ModelConfig) -> SpeechTextModel:
    """The modules without storage, for counting."""
    with torch.device("meta"):
        return build_model(config, seed=0)


def count_parameters(config: ModelConfig) -> int:
    """Parameters in all, embeddings and heads included."""
    return sum(parameter.numel() for parameter in empty_model(config).parameters())


def plain_like(config: ModelConfig, num_layers: int | None = None) -> ModelConfig:
    """The plain baseline with the blocks, vocabulary, head and n-gram embeddings of an LST's global part."""
    stack = config.global_transformer
    if num_layers is not None:
        stack = stack.with_updates(num_layers=num_layers)
    return ModelConfig(
        kind="plain",
        global_transformer=stack,
        head=config.head,
        norm_eps=config.norm_eps,
        attention=config.attention,
        vocabulary=config.vocabulary,
        ngrams=config.ngrams,
    )


def match_plain(
    config: ModelConfig, match: Literal["parameters", "flops"], counts: tuple[ForwardWork, ForwardWork] | None = None
) -> ModelConfig:
    """The plain baseline of the same width whose number of layers comes nearest to LST's parameters or operations.

    For `flops`, `counts` is the same text and speech as LST and as the plain transformer see it (`model.describe.count_mix`).

    Raises:
        ValueError: `flops` without counts.
        ConfigError: a match beyond 512 layers.
    """
    layers = matching_layers(config, match, counts)
    if layers > MAX_LAYERS:
        raise ConfigError(
            f"a plain transformer would need {layers} layers to match the {match} of this model, and {MAX_LAYERS} is the limit",
            f"widen global_transformer, whose dim is {config.global_transformer.dim}",
        )
    return plain_like(config, layers)


def matching_layers(
    config: ModelConfig, match: Literal["parameters", "flops"], counts: tuple[ForwardWork, ForwardWork] | None = None
) -> int:
    """The number of layers of `match_plain`, which may be more than anyone builds.

    Raises:
        ValueError: `flops` without counts.
    """
    if match == "parameters":
        return _nearest(config, count_parameters, float(count_parameters(config)))
    if counts is None:
        raise ValueError("matching operations needs the counts of a mix for both models")
    lst_counts, plain_counts = counts
    target = forward_flops(empty_model(config), lst_counts)
    return _nearest(config, lambda plain: forward_flops(empty_model(plain), plain_counts), target)


def _nearest(config: ModelConfig, size: Callable[[ModelConfig], float], target: float) -> int:
    """Sizes are affine in the number of layers, so two of them give the line."""
    one, two = size(plain_like(config, 1)), size(plain_like(config, 2))
    return max(1, round(1 + (target - one) / (two - one)))
