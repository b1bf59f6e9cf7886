"""A model as a folder that goes anywhere: weights, configuration, tokenizer, unit cards, patch policy, card, and code to load it.

config.json             architecture (`model`), patch policy (`patches`), and all that scoring and fine-tuning ask (`run`)
model*.safetensors      weights, in shards where they are large
tokenizer.json|.model   the text tokenizer;  unit_bpe.json where the model has one
README.md               the model card
modeling_lst.py, ...    for `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from model.exchange.bundle import write_bundle
from model.exchange.hf import CONFIG, MODEL_TYPE, write_json, write_weights
from model.network.base import SpeechTextModel
from schemas.errors import DataError

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
ENTRY = "modeling_lst"


def write_folder(
    module: SpeechTextModel, folder: Path, *, run: dict[str, Any], patches: dict[str, Any], dtype: str, shard_bytes: int
) -> None:
    """Write weights, configuration and code. `run` is what `model.inference.trained` reads back: step, config, data, units.

    `dtype` is a key of DTYPES; a shard has at most `shard_bytes`, unless a single tensor is larger.
    """
    weights = {
        name: tensor.detach().to(DTYPES[dtype]).contiguous().cpu() for name, tensor in module.state_dict().items()
    }
    write_weights(folder, weights, shard_bytes)
    write_bundle(folder)
    settings = {
        "architectures": ["LstForCausalLM"],
        "model_type": MODEL_TYPE,
        "auto_map": {"AutoConfig": f"{ENTRY}.LstConfig", "AutoModelForCausalLM": f"{ENTRY}.LstForCausalLM"},
        "dtype": str(DTYPES[dtype]).removeprefix("torch."),
        "model": module.config.model_dump(mode="json"),
        "patches": patches,
        "run": run,
    }
    write_json(folder / CONFIG, settings)  # last: with it the folder is a model


def read_run(folder: Path) -> dict[str, Any] | None:
    """What `write_folder` was told of the run; None where the folder is no exported run.

    Raises:
        DataError: its configuration is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}", "export or fetch the model again") from error
    if not isinstance(settings, dict) or settings.get("model_type") != MODEL_TYPE:
        return None
    run: dict[str, Any] | None = settings.get("run")
    return run
