"""The models that a configuration file names: a pipeline spec's, or the tokenizer and first weights of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.networks.resolver import Wanted, models_of
from schemas.config import ConfigError, load_config
from schemas.spec import PipelineSpec


def models_of_file(path: str) -> list[Wanted]:
    """The models of a configuration.

    Raises:
        ConfigError: it is neither a pipeline spec nor a training configuration, or is not valid.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    if isinstance(document, dict) and "stages" in document:
        return models_of(load_config(PipelineSpec, path))
    if isinstance(document, dict) and "data" in document:
        return _of_training(document)
    raise ConfigError(f"{path} is neither a pipeline spec (stages) nor a training configuration (data)")


def _of_training(document: dict[str, Any]) -> list[Wanted]:
    """The tokenizer, unless the run trains it, the voice, and what the weights start from, unless it is another run."""
    found = []
    tokenizer = document["data"].get("tokenizer") or {}
    if "path" in tokenizer and tokenizer.get("train_size") is None:
        found.append(Wanted(field="data.tokenizer.path", form="tokenizer", name=str(tokenizer["path"])))
    vocoder = ((document.get("evaluation") or {}).get("voice") or {}).get("vocoder")
    if vocoder is not None:
        found.append(Wanted(field="evaluation.voice.vocoder", form="vocoder", name=str(vocoder)))
    start = document.get("init_from")
    runs = Path(str(document.get("output_dir", "runs/x"))).parent
    if start is not None and not Path(start).is_dir() and Path(start).parent != runs:  # there lie runs, made here
        found.append(Wanted(field="init_from", form="hf", name=str(start)))
    return found
