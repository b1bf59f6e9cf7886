"""Going on from a checkpoint: the latest that is whole; one after it only where none of those before it is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from model.training.checkpoint import check_same_run, load, read_facts, verify
from model.training.config import TrainConfig
from model.training.distributed import Ranks
from model.training.storage.stores import CheckpointError, Checkpoints, candidates
from schemas.errors import ConfigError, CredentialsError, StorageError

log = logging.getLogger(__name__)


def restore(
    store: Checkpoints, config: TrainConfig, data: dict[str, Any], tensors: dict[str, torch.Tensor], ranks: Ranks
) -> dict[str, Any] | None:
    """Fill `tensors` from the latest checkpoint of the run that is whole, and return its facts; None where there is none yet. One
    that is damaged is named, and the next of `candidates` takes its place. `data`: the corpus's fingerprint.

    Raises:
        ConfigError: the run's data, model or settings are not what they were, or it must not be resumed.
        CheckpointError: there are checkpoints, and none of them can be read.
        StorageError, CredentialsError: nobody can say what there is.
    """
    found = ranks.gather(candidates(store) if ranks.is_main else [])[0]
    if found and not config.checkpoint.resume:
        raise ConfigError(
            f"{config.output_dir} has checkpoints up to {found[0]} and checkpoint.resume is false; "
            "choose another output_dir or remove them"
        )
    for name in found:
        path, facts, problem = _facts(store, name, ranks)
        if path is not None and problem is None:
            check_same_run(path, facts, config, data)
            problem = _fill(path, tensors, ranks)
        if path is not None:
            store.release(path)
        if problem is None:
            log.info("resumed from %s/%s", store, name)
            return facts
        log.warning("%s; trying the next one", problem)
    if found:
        raise CheckpointError(f"no checkpoint under {store} can be read", "remove them all to begin anew")
    return None


def _facts(store: Checkpoints, name: str, ranks: Ranks) -> tuple[Path | None, dict[str, Any], str | None]:
    """Where a checkpoint's files are on this machine, and its facts; and, alike on all ranks, what is wrong with them."""
    path: Path | None = None
    facts: dict[str, Any] = {}
    problem: str | None = None
    away: Exception | None = None
    try:
        path = store.fetch(name)
        facts = read_facts(path)
        if ranks.is_main:
            verify(path, facts)
    except CheckpointError as error:
        problem = str(error)
    except (StorageError, CredentialsError) as error:  # no reason to go back to an older one
        away = error
    for unanswered in ranks.gather(away):
        if unanswered is not None:
            raise unanswered
    return path, facts, _first(problem, ranks)


def _fill(path: Path, tensors: dict[str, torch.Tensor], ranks: Ranks) -> str | None:
    problem = None
    try:
        load(path, tensors, ranks)
    except CheckpointError as error:
        problem = str(error)
    return _first(problem, ranks)


def _first(problem: str | None, ranks: Ranks) -> str | None:
    return next((text for text in ranks.gather(problem) if text), None)
