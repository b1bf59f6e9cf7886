"""Going on from a checkpoint: the latest that is whole."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from model.training.checkpoint import CheckpointError, candidates, check_same_run, load, read_facts, verify
from model.training.config import TrainConfig
from model.training.distributed import Ranks
from schemas.errors import ConfigError

log = logging.getLogger(__name__)


def restore(
    config: TrainConfig, data: dict[str, Any], tensors: dict[str, torch.Tensor], ranks: Ranks
) -> dict[str, Any] | None:
    """Fill `tensors` from the latest checkpoint of the run that is whole, and return its facts; None where there is none yet. One
    that is damaged is named, and the one before it takes its place. `data`: the corpus's fingerprint.

    Raises:
        ConfigError: the run's data, model or settings are not what they were, or it must not be resumed.
        CheckpointError: there are checkpoints, and none of them can be read.
    """
    folder = Path(config.output_dir) / "checkpoints"
    found = candidates(folder)
    if found and not config.checkpoint.resume:
        raise ConfigError(
            f"{config.output_dir} has checkpoints up to {found[0].name} and checkpoint.resume is false; "
            "choose another output_dir or remove them"
        )
    for path in found:
        facts, problem = _facts(path, ranks)
        if problem is None:
            check_same_run(path, facts, config, data)
            problem = _fill(path, tensors, ranks)
        if problem is None:
            log.info("resumed from %s", path)
            return facts
        log.warning("%s; trying the checkpoint before it", problem)
    if found:
        raise CheckpointError(f"no checkpoint under {folder} can be read", "remove them all to begin anew")
    return None


def _facts(path: Path, ranks: Ranks) -> tuple[dict[str, Any], str | None]:
    """Facts of a checkpoint; and, alike on all ranks, what is wrong with its files."""
    facts: dict[str, Any] = {}
    problem = None
    try:
        facts = read_facts(path)
        if ranks.is_main:
            verify(path, facts)
    except CheckpointError as error:
        problem = str(error)
    return facts, _first(problem, ranks)


def _fill(path: Path, tensors: dict[str, torch.Tensor], ranks: Ranks) -> str | None:
    problem = None
    try:
        load(path, tensors, ranks)
    except CheckpointError as error:
        problem = str(error)
    return _first(problem, ranks)


def _first(problem: str | None, ranks: Ranks) -> str | None:
    return next((text for text in ranks.gather(problem) if text), None)
