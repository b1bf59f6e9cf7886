"""A trained model out of a run's directory, and its export.

python -m model.trained runs/train-tiny --export models/tiny      config.json and model.safetensors (docs/model.md)
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from model.checkpoint import CheckpointError, latest, load, read_facts
from model.config import ModelConfig
from model.distributed import Ranks
from model.hf import export
from model.interface import SpeechTextModel
from model.lst import build_model
from model.train_config import TrainConfig
from schemas.config import ConfigError, parse_config


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model as a checkpoint has it."""

    module: SpeechTextModel
    config: TrainConfig
    """Of the run, the model with its vocabulary."""
    step: int


def load_trained(path: str | Path, device: torch.device | str = "cpu") -> Trained:
    """The model of a run (its newest checkpoint) or of one checkpoint, in eval mode; optimiser state is not read.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read.
        ConfigError: it was written by another version of this code.
    """
    path = Path(path)
    folder = path if (path / "checkpoint.json").exists() else latest(path / "checkpoints")
    if folder is None:
        raise CheckpointError(f"{path} is neither a checkpoint nor a run with one under checkpoints/")
    facts = read_facts(folder)
    config = parse_config(TrainConfig, facts["config"], f"{folder}/checkpoint.json")
    assert isinstance(config.model, ModelConfig)
    with torch.device("meta"):
        module = build_model(config.model, config.seed)
    module.to_empty(device=device)
    weights = {f"model.{name}": parameter.detach() for name, parameter in module.named_parameters()}
    load(folder, weights, Ranks(0, 1, torch.device(device)))
    return Trained(module=module.eval(), config=config, step=int(facts["step"]))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's output_dir, or one of its checkpoints")
    parser.add_argument("--export", required=True, help="the directory to write")
    given = parser.parse_args()
    try:
        trained = load_trained(given.run)
    except (CheckpointError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    export(trained.module, given.export)
    print(f"wrote {given.export}: step {trained.step} of {given.run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
