"""A trained model out of a run's directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.data.compose import Composer
from model.data.sources import UnitFacts
from model.data.text_tokenizer import load_tokenizer
from model.exchange.folder import read_run
from model.exchange.hf import load as load_folder
from model.exchange.remote import local_copy
from model.network.base import SpeechTextModel
from model.network.lst import build_model
from model.training.checkpoint import latest, load, read_facts
from model.training.config import TrainConfig
from model.training.distributed import Ranks
from model.training.parts import with_known_boundaries, with_own_parts
from model.training.storage.stores import CheckpointError
from schemas.cards import hash_file
from schemas.config import ConfigError, parse_config
from schemas.errors import ExitCode
from schemas.models.hub import folder_of
from schemas.models.unit_bpe import UnitBpe


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model as a checkpoint has it."""

    module: SpeechTextModel
    config: TrainConfig
    """Of the run, the model with its vocabulary."""
    step: int
    units: UnitFacts | None
    """What made the units it was trained on; None where there were none, or where older code wrote the checkpoint."""
    data: dict[str, Any]
    """`Corpus.fingerprint()` of the run."""
    root: Path
    """The run, or the exported folder: it has copies of the tokenizer and the unit BPE."""

    def composer(self) -> Composer:
        """Makes documents as training did, with the run's own text tokenizer and unit BPE.

        Raises:
            ConfigError: one of them is missing or is not the one that the run was trained with.
        """
        settings = with_own_parts(self.config.data, self.root)
        tokenizer = load_tokenizer(settings.tokenizer.path)
        if tokenizer.card.card_id != self.data["tokenizer"]:
            raise ConfigError(
                f"the text tokenizer {settings.tokenizer.path} is {tokenizer.card.card_id}, and the model was trained with "
                f"{self.data['tokenizer']}: put that one back"
            )
        bpe = UnitBpe.load(settings.unit_bpe) if settings.unit_bpe else None
        if settings.unit_bpe and hash_file(settings.unit_bpe) != self.data["unit_bpe"]:
            raise ConfigError(f"the unit BPE {settings.unit_bpe} is not the one that the model was trained with")
        return Composer(tokenizer, self.module.vocabulary, token_starts=False, unit_bpe=bpe)


def check_device(device: torch.device | str) -> None:
    """
    Raises:
        ConfigError: this machine has no such device.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"{str(device)!r} is no device", "write cpu, cuda or cuda:1") from error
    have = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted.type == "cuda" and (wanted.index or 0) >= have:
        raise ConfigError(f"there is no device {wanted} here: torch sees {have} GPUs", "write cpu, or another number")


def load_trained(path: str | Path, device: torch.device | str = "cpu") -> Trained:
    """The model of a run (its newest checkpoint), of one checkpoint, or of an exported folder, in eval mode and fp32; optimiser
    state is not read. A URL (`s3://bucket/run`) or a hub name of an exported folder is one too; a URL is copied first.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read.
        ConfigError: it was written by another version of this code, or there is no such device.
    """
    check_device(device)
    path = local_copy(str(path)) if "://" in str(path) else folder_of(str(path)) or Path(path)
    exported = read_run(path)
    if exported is not None:
        module = load_folder(path).float().to(device)
        return _trained(module, exported, path, f"{path}/config.json")
    folder = path if (path / "checkpoint.json").exists() else latest(path / "checkpoints")
    if folder is None:
        raise CheckpointError(
            f"{path} is neither a checkpoint nor a run with one under checkpoints/, nor an exported folder",
            code=ExitCode.CONFIGURATION,
        )
    facts = read_facts(folder)
    config = parse_config(TrainConfig, facts["config"], f"{folder}/checkpoint.json")
    with torch.device("meta"):
        module = build_model(config.network, config.seed)
    module.to_empty(device=device)
    weights = {f"model.{name}": parameter.detach() for name, parameter in module.named_parameters()}
    load(folder, weights, Ranks(0, 1, torch.device(device)))
    return _trained(module, facts, run_folder(folder), f"{folder}/checkpoint.json")


def _trained(module: SpeechTextModel, facts: dict[str, Any], root: Path, origin: str) -> Trained:
    made = facts.get("units")
    config = parse_config(TrainConfig, facts["config"], origin)
    patches = with_known_boundaries(config.patches, root, module.vocabulary)
    return Trained(
        module=module.eval(),
        config=config if patches == config.patches else config.with_updates(patches=patches.model_dump()),
        step=int(facts["step"]),
        units=None if made is None else parse_config(UnitFacts, made, origin),
        data=facts["data"],
        root=root,
    )


def run_folder(path: str | Path) -> Path:
    """The run that `path` is, or that the checkpoint at `path` belongs to."""
    folder = Path(path)
    return folder.resolve().parents[1] if (folder / "checkpoint.json").exists() else folder
