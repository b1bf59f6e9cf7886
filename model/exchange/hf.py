"""To and from Hugging Face: safetensors + config.json, and Llama checkpoints as a starting point.

`export` and `load` keep any model of ours; a plain baseline with a joint head is a Llama, and `export_llama` writes it as one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from model.network.base import SpeechTextModel
from model.network.config import ModelConfig, StackConfig
from model.network.init import assign
from model.network.lst import build_model
from model.network.vocabulary import NUM_SPECIAL
from schemas.config import parse_config
from schemas.errors import DataError
from schemas.files import whole_file

MODEL_TYPE = "latent_speech_text"
WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


def export(model: SpeechTextModel, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors`. For a sharded model, gather the full weights first."""
    weights = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    settings = {"architectures": [type(model).__name__], "model_type": MODEL_TYPE, "model": model.config.model_dump()}
    _write(folder, settings, weights)


def load(folder: str | Path) -> SpeechTextModel:
    """The model that `export` wrote, in the dtype it was written in.

    Raises:
        ValueError: the folder holds something else.
        DataError: its weights are missing or damaged.
    """
    settings = _read_config(folder)
    if settings.get("model_type") != MODEL_TYPE:
        raise ValueError(f"{folder} holds a {settings.get('model_type')!r} model; this loads {MODEL_TYPE!r} alone")
    config = parse_config(ModelConfig, settings["model"], origin=str(Path(folder) / CONFIG))
    with torch.device("meta"):
        model = build_model(config, seed=0)
    with ExitStack() as stack:
        read = _open_weights(Path(folder), stack)
        try:
            model.load_state_dict({name: read(name) for name in model.state_dict()}, assign=True)
        except (RuntimeError, SafetensorError) as error:  # one lacks, or has another shape
            reason = str(error).splitlines()[-1].strip()
            raise DataError(
                f"the weights of {folder} are not those of its {CONFIG}: {reason}", "export or fetch the model again"
            ) from error
    return model


def write_weights(folder: Path, weights: dict[str, torch.Tensor], shard_bytes: int = 5 * 10**9) -> None:
    """Write safetensors as the Hugging Face hub has them: one file, or shards of at most `shard_bytes` and their index.

    Raises:
        OSError: the disk is full, or nothing can be written there.
    """
    split = split_torch_state_dict_into_shards(
        weights, filename_pattern="model{suffix}.safetensors", max_shard_size=shard_bytes
    )
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    for file, names in split.filename_to_tensors.items():
        with whole_file(folder / file) as partial:
            try:
                save_file({name: weights[name] for name in names}, partial, metadata={"format": "pt"})
            except SafetensorError as error:  # which says a full disk in words, and is no OSError
                if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
                    raise
                raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder / file)) from error
    if split.is_sharded:
        write_json(folder / INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def export_llama(model: SpeechTextModel, folder: str | Path) -> None:
    """Write a plain baseline with a joint head as a Llama over the joint vocabulary, for `LlamaForCausalLM`.

    Raises:
        ValueError: the model is no Llama.
    """
    config, stack = model.config, model.config.global_transformer
    if config.kind != "plain" or config.head != "joint":
        raise ValueError("only kind: plain with head: joint has the shape of a Llama; use export for other models")
    if config.ngrams is not None:
        raise ValueError("a Llama has no n-gram embeddings, and this model does; use export")
    if config.qk_norm:
        raise ValueError("a Llama does not norm its queries and keys, and this model does (qk_norm); use export")
    weights = {theirs: tensor.detach().contiguous().cpu() for theirs, tensor in _as_llama(model, stack)}
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocabulary.size,
        "hidden_size": stack.dim,
        "intermediate_size": stack.ffn_dim,
        "num_hidden_layers": stack.num_layers,
        "num_attention_heads": stack.num_heads,
        "num_key_value_heads": stack.kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": stack.rope_theta,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    _write(folder, settings, weights)


def _as_llama(model: SpeechTextModel, stack: StackConfig) -> Iterator[tuple[str, torch.Tensor]]:
    state = model.state_dict()
    yield "model.embed_tokens.weight", state["embedding.weight"]
    yield "model.norm.weight", state["heads.joint.norm.weight"]
    yield "lm_head.weight", state["heads.joint.output.weight"]
    for layer in range(stack.num_layers):
        for ours, theirs in _block_names(layer):
            tensor = state[ours]
            if len(theirs) == 1:
                yield theirs[0], tensor
            else:
                yield from zip(theirs, tensor.split(_rows(stack, ours)), strict=True)


def init_from(model: SpeechTextModel, folder: str | Path) -> list[str]:
    """Start from a text model: copy a Llama-architecture checkpoint into the global transformer, the text embeddings and the
    text head, as far as the model has them at the checkpoint's width (with `text_path: local` that is the global part alone).
    Specials and units keep their initial weights. Returns the names of the parameters that were set, wholly or in part.

    Raises:
        ValueError: the checkpoint is no plain Llama, or its shapes are not those of the model's global part.
    """
    settings = _read_config(folder)
    _check_llama(settings, model.config.global_transformer, model.config.norm_eps, str(folder))
    parameters = dict(model.named_parameters())
    touched = []
    with ExitStack() as stack:
        read = _open_weights(Path(folder), stack)
        for layer in range(model.config.global_transformer.num_layers):
            for ours, theirs in _block_names(layer):
                assign(parameters[ours], torch.cat([read(name) for name in theirs]))
                touched.append(ours)
        embedding = read("model.embed_tokens.weight")
        output = embedding if settings.get("tie_word_embeddings") else read("lm_head.weight")
        final_norm = read("model.norm.weight")
    width = model.config.global_transformer.dim
    head = "heads.text" if "heads.text.output.weight" in parameters else "heads.joint"
    targets = {
        "text_embedding.weight" if "text_embedding.weight" in parameters else "embedding.weight": embedding,
        f"{head}.output.weight": output,
    }
    for name, rows in targets.items():
        if parameters[name].shape[1] == width:
            _assign_text_rows(parameters[name], rows, model.vocabulary.num_text)
            touched.append(name)
    if parameters[f"{head}.norm.weight"].shape[0] == width:
        assign(parameters[f"{head}.norm.weight"], final_norm)
        touched.append(f"{head}.norm.weight")
    return touched


def _assign_text_rows(parameter: torch.Tensor, rows: torch.Tensor, num_text: int) -> None:
    if len(rows) != num_text:
        raise ValueError(f"the checkpoint has {len(rows)} text tokens, the vocabulary {num_text}: use its tokenizer")
    whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    full = whole.detach().clone()
    full[NUM_SPECIAL : NUM_SPECIAL + num_text] = rows.to(full.dtype)
    assign(parameter, full)


def _block_names(layer: int) -> list[tuple[str, list[str]]]:
    """Our parameters of a global layer, and the Llama tensors whose rows they stack."""
    ours, theirs = f"global_transformer.layers.{layer}.", f"model.layers.{layer}."
    return [
        (ours + "attention_norm.weight", [theirs + "input_layernorm.weight"]),
        (ours + "attention.qkv.weight", [f"{theirs}self_attn.{name}_proj.weight" for name in "qkv"]),
        (ours + "attention.out.weight", [theirs + "self_attn.o_proj.weight"]),
        (ours + "feed_forward_norm.weight", [theirs + "post_attention_layernorm.weight"]),
        (ours + "feed_forward.gate_up.weight", [f"{theirs}mlp.{name}_proj.weight" for name in ("gate", "up")]),
        (ours + "feed_forward.down.weight", [theirs + "mlp.down_proj.weight"]),
    ]


def _rows(stack: StackConfig, ours: str) -> list[int]:
    if ours.endswith("gate_up.weight"):
        return [stack.ffn_dim, stack.ffn_dim]
    return [stack.dim, stack.kv_heads * stack.head_dim, stack.kv_heads * stack.head_dim]


def _check_llama(settings: dict[str, Any], stack: StackConfig, norm_eps: float, origin: str) -> None:
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    heads = settings.get("num_attention_heads")
    facts = {
        "model_type": (settings.get("model_type"), "llama"),
        "hidden_size": (settings.get("hidden_size"), stack.dim),
        "num_hidden_layers": (settings.get("num_hidden_layers"), stack.num_layers),
        "num_attention_heads": (heads, stack.num_heads),
        "num_key_value_heads": (settings.get("num_key_value_heads") or heads, stack.kv_heads),
        "head_dim": (settings.get("head_dim") or stack.head_dim, stack.head_dim),
        "intermediate_size": (settings.get("intermediate_size"), stack.ffn_dim),
        "rope_theta": (settings.get("rope_theta") or rope.get("rope_theta"), stack.rope_theta),
        "rope_type": (rope.get("rope_type", "default"), "default"),
        "rms_norm_eps": (settings.get("rms_norm_eps"), norm_eps),
        "attention_bias": (bool(settings.get("attention_bias")), False),
        "mlp_bias": (bool(settings.get("mlp_bias")), False),
    }
    wrong = [
        f"{name} is {theirs!r}, the model has {ours!r}" for name, (theirs, ours) in facts.items() if theirs != ours
    ]
    if wrong:
        raise ValueError(f"{origin} cannot start this model: " + "; ".join(wrong))


def _open_weights(folder: Path, stack: ExitStack) -> Callable[[str], torch.Tensor]:
    """A reader of single tensors, over one safetensors file or several."""
    index = folder / INDEX
    if index.is_file():
        try:
            places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(f"{index} is damaged: {error}", "export or fetch the model again") from error
    elif (folder / WEIGHTS).is_file():
        places = {}
    else:
        raise DataError(f"{folder} has neither {WEIGHTS} nor {INDEX}; convert other formats to safetensors first")
    files: dict[str, Any] = {}

    def read(name: str) -> torch.Tensor:
        file = Path(places.get(name, WEIGHTS)).name
        if file not in files:
            try:
                files[file] = stack.enter_context(safe_open(folder / file, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise DataError(
                    f"{folder / file} cannot be read: {error}", "export or fetch the model again"
                ) from error
        tensor: torch.Tensor = files[file].get_tensor(name)
        return tensor

    return read


def _read_config(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} has no {CONFIG}: is it a model directory?")
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return settings


def _write(folder: str | Path, settings: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    write_weights(Path(folder), weights)
    write_json(Path(folder) / CONFIG, settings)
