"""Where a run's first weights come from, if they are not drawn: another run, or a text model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from model.data.sources import TrainingData, UnitFacts
from model.data.text_tokenizer import UntrainedTokenizer
from model.exchange.folder import read_run
from model.exchange.hf import CONFIG, init_from
from model.exchange.hf import load as load_folder
from model.exchange.remote import check_there, local_copy
from model.network.base import SpeechTextModel
from model.network.init import WRAPPERS, assign
from model.training.checkpoint import latest, load, read_facts
from model.training.distributed import Ranks
from model.training.storage.stores import FACTS
from schemas.config import ConfigError, parse_config
from schemas.models.hub import folder_of

TAKES = "It takes a run, a checkpoint, an exported folder, or a Llama text model"


@torch.no_grad()
def set_weights(module: nn.Module, source: str, corpus: TrainingData, ranks: Ranks) -> str:
    """Copy the weights of a run, of a checkpoint, or of a Llama-architecture text model into `module`; a sentence of what was
    copied. A module on the meta device is compared alone.

    Raises:
        ConfigError: there is nothing to start from, its shapes are not the model's, or its text tokens or units are others.
        CheckpointError: the checkpoint cannot be read.
    """
    path, facts = _start(source)
    if facts is None:
        try:
            touched = init_from(cast(SpeechTextModel, module), path)
        except ValueError as error:
            raise ConfigError(f"init_from {source}: {error}. {TAKES}") from error
        return f"{path}, which has {len(touched)} of {len(list(module.parameters()))} parameters"
    _same_vocabulary(path, facts, corpus)
    if read_run(path) is not None:
        _copy_weights(module, path)
        return f"the exported weights of {path}"
    load(path, {f"model.{name}": parameter.detach() for name, parameter in module.named_parameters()}, ranks)
    return f"the weights of {path}"


def check_weights(module: nn.Module, source: str, corpus: TrainingData) -> str:
    """As far as nothing has to be copied or trained for it, what `set_weights` would do and raise. `module`: on the meta device.

    Raises:
        ConfigError, CheckpointError: see `set_weights`.
        DataError: there is nothing at a URL.
    """
    if "://" in source:
        check_there(source)
        return f"{source} is there; it is copied and compared with the model when the run begins"
    if isinstance(corpus.tokenizer, UntrainedTokenizer):
        return f"{_start(source)[0]} is there; it is compared with the model when the tokenizer has been trained"
    start: str = set_weights(module, source, corpus, Ranks(0, 1, torch.device("cpu")))
    return start


def _start(source: str) -> tuple[Path, dict[str, Any] | None]:
    """The folder of an export, of a checkpoint or of a text model, and what it says of its run; None of a text model."""
    path = local_copy(source) if "://" in source else folder_of(source) or Path(source)
    exported = read_run(path)
    if exported is not None:
        return path, exported
    folder = path if (path / FACTS).exists() else latest(path / "checkpoints")
    if folder is not None:
        return folder, read_facts(folder)
    if not (path / CONFIG).is_file():
        raise ConfigError(f"init_from {source}: {path} has no {CONFIG}. {TAKES}")
    return path, None


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
