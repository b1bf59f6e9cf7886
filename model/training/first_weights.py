"""Where a run's first weights come from, if they are not drawn: another run, or a text model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from model.data.sources import TrainingData, UnitFacts
from model.exchange.folder import read_run
from model.exchange.hf import init_from
from model.exchange.hf import load as load_folder
from model.exchange.remote import local_copy
from model.network.base import SpeechTextModel
from model.network.init import WRAPPERS, assign
from model.training.checkpoint import latest, load, read_facts
from model.training.distributed import Ranks
from schemas.config import ConfigError, parse_config
from schemas.models.hub import folder_of

log = logging.getLogger(__name__)


@torch.no_grad()
def set_weights(module: nn.Module, source: str, corpus: TrainingData, ranks: Ranks) -> None:
    """Copy the weights of a run, of a checkpoint, or of a Llama-architecture text model into `module`.

    Raises:
        ConfigError: there is nothing to start from, its shapes are not the model's, or its text tokens or units are others.
        CheckpointError: the checkpoint cannot be read.
    """
    path = local_copy(source) if "://" in source else folder_of(source) or Path(source)
    exported = read_run(path)
    if exported is not None:
        _same_vocabulary(path, exported, corpus)
        _copy_weights(module, path)
        log.info("started from the exported weights of %s", path)
        return
    folder = path if (path / "checkpoint.json").exists() else latest(path / "checkpoints")
    if folder is not None:
        _same_vocabulary(folder, read_facts(folder), corpus)
        load(folder, {f"model.{name}": parameter.detach() for name, parameter in module.named_parameters()}, ranks)
        log.info("started from the weights of %s", folder)
        return
    try:
        touched = init_from(cast(SpeechTextModel, module), path)
    except ValueError as error:
        raise ConfigError(
            f"init_from {source}: {error}. It takes a run, a checkpoint, an exported folder, or a Llama text model"
        ) from error
    log.info("started %d of %d parameters from %s", len(touched), len(list(module.parameters())), path)


def _copy_weights(module: nn.Module, folder: Path) -> None:
    theirs = load_folder(folder).state_dict()
    for name, parameter in module.named_parameters():
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        if name not in theirs or theirs[name].shape != parameter.shape:
            what = list(theirs[name].shape) if name in theirs else "no such tensor"
            raise ConfigError(f"init_from {folder}: {name} is {list(parameter.shape)}, the folder has {what}")
        assign(parameter, theirs[name])


def _same_vocabulary(folder: Path, facts: dict[str, Any], corpus: TrainingData) -> None:
    theirs, ours = facts["data"], corpus.fingerprint()
    for name in ("tokenizer", "unit_bpe"):
        if theirs.get(name) != ours.get(name):
            raise ConfigError(
                f"init_from {folder}: its {name} is {theirs.get(name)!r}, this run's is {ours.get(name)!r}; set "
                f"data.{name} to the one it was trained with"
            )
    units = corpus.unit_facts()
    if units is None or facts.get("units") is None:
        return
    made = parse_config(UnitFacts, facts["units"], f"{folder}/checkpoint.json")
    before, now = (
        sorted(name for name, card in unit.cards.items() if card.kind == "unit_tokenizer") for unit in (made, units)
    )
    if before != now:
        raise ConfigError(f"init_from {folder}: its units were made by {before}, this run's by {now}")
