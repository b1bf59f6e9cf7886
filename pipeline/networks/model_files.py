"""The files of a Hugging Face model: its directory, its hashes. And which device to use."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from pipeline.networks.resolver import Wanted, place_of
from schemas.cards import hash_directory
from schemas.config import ConfigError

LOAD_ERRORS = (RuntimeError, OSError, ValueError, pickle.UnpicklingError, SafetensorError)
"""What loading a damaged or foreign model raises."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def model_directory(model: str, field: str) -> Path:
    """The directory of a Hugging Face model: a path, or `owner/name[@revision]` in this machine's cache. Nothing is fetched.

    Raises:
        ModelError: it is neither; the message says how to get it. `field` is where the spec names it.
    """
    return Path(place_of(Wanted(field=field, form="hf", name=model)))


def weight_hashes(directory: Path) -> dict[str, str]:
    """sha256 of the configuration and the weights that transformers would load from a directory.

    Raises:
        ConfigError: there is no config.json, or there are no weights.
    """
    if not (directory / "config.json").is_file():
        raise ConfigError(f"{directory} has no config.json: it is not a Hugging Face model directory")
    names = [name for name in WEIGHTS if (directory / name).is_file()]
    if not names:
        raise ConfigError(f"{directory} has no weights: one of {', '.join(WEIGHTS)} is needed")
    shards = (
        sorted(path.name for path in directory.glob("model-*.safetensors")) if names[0].endswith("index.json") else []
    )
    return hash_directory(directory, ("config.json", names[0], *shards))


def whole_model(kind: Any, directory: Path, lacking: str) -> Any:
    """A model of transformers class `kind` in float32 from its directory, complete.

    transformers fills what a file lacks with random numbers and only logs it, so the missing names are asked for.
    `masked_spec_embed` is pre-training's alone: published models come without it.

    Raises:
        ConfigError: the weights cannot be read, or some are missing; `lacking` says what the model is then.
    """
    import torch

    try:
        with _without_bar():
            model, report = kind.from_pretrained(
                directory, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except LOAD_ERRORS as error:
        raise ConfigError(f"the weights in {directory} cannot be loaded: {str(error).splitlines()[0]}") from error
    if missing := sorted(name for name in report["missing_keys"] if "masked_spec_embed" not in name):
        some = ", ".join(missing[:3]) + (" and others" if len(missing) > 3 else "")
        raise ConfigError(f"{directory} lacks the weights {some}: {lacking}")
    return model


@contextmanager
def _without_bar() -> Iterator[None]:
    """transformers draws a bar on stderr while it loads, on a terminal or not, over what a command says."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def beside_model(kind: Any, directory: Path) -> Any:
    """What stands beside the weights: a feature extractor or processor of transformers class `kind`.

    Raises:
        ConfigError: its files are missing or damaged.
    """
    try:
        return kind.from_pretrained(directory, local_files_only=True)
    except LOAD_ERRORS as error:
        raise ConfigError(f"the model in {directory} cannot be loaded: {str(error).splitlines()[0]}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ConfigError: missing, or not a JSON object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    return document


def torch_dtype(name: Literal["float32", "float16", "bfloat16"]) -> Any:
    """torch's type of that name."""
    import torch

    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]


def torch_device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """ "cuda" or "cpu"; auto takes the GPU where there is one.

    Raises:
        ConfigError: cuda is asked for and there is none.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda is asked for, but torch sees no GPU here: write auto or cpu")
    return wanted
