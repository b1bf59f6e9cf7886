"""Fairseq HuBERT checkpoints without fairseq. They are pickles: torch's weights-only reader refuses whatever could run."""

from __future__ import annotations

import ast
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class FairseqHubert:
    """What a checkpoint says of its model and its task, and the weights by fairseq's names."""

    model: dict[str, Any]
    task: dict[str, Any]
    weights: dict[str, Any]

    @property
    def conv_layers(self) -> list[tuple[int, int, int]]:
        """(width, kernel, stride) of each convolution.

        Raises:
            ConfigError: the configuration's expression is not the sum of lists that fairseq writes.
        """
        return parse_conv_layers(
            self.model.get("conv_feature_layers", "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2")
        )


class _Record(dict[Any, Any]):
    """Stands for the classes that a checkpoint names: keeps items and attributes, does nothing."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


STAND_INS = (
    "argparse.Namespace",
    "fairseq.data.dictionary.Dictionary",
    "collections.defaultdict",
    "typing.Any",
    "builtins.dict",
    "builtins.list",
    "builtins.int",
    "builtins.float",
    "builtins.str",
    "builtins.bool",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.StringNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.BooleanNode",
)
"""The classes that fairseq's HuBERT checkpoints name. Any other name ends the reading."""


def read_fairseq_hubert(path: Path) -> FairseqHubert:
    """Read a .pt that fairseq saved, in either of torch's file formats, with `cfg` (hydra) or `args` (before it).

    Raises:
        ConfigError: not such a file, something in it is not on the list of harmless classes, or it is not a HuBERT.
    """
    import torch

    stand_ins: list[Any] = [(type(name.rpartition(".")[2], (_Record,), {}), name) for name in STAND_INS]
    try:
        with torch.serialization.safe_globals(stand_ins):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it names {named[1]}" if named else str(error).splitlines()[0]
        raise ConfigError(
            f"{path} was refused: it is no fairseq checkpoint, or it holds more than data ({reason})"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise ConfigError(f"{path} holds no fairseq model state")
    model, task = _configuration(state, path)
    return FairseqHubert(model=model, task=task, weights=state["model"])


def _configuration(state: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if state.get("cfg") is not None:
        config = _plain(state["cfg"])
        model, task = config.get("model"), config.get("task")
    else:
        model = task = _plain(state.get("args"))
    if not isinstance(model, dict) or not isinstance(task, dict):
        raise ConfigError(f"{path} has neither `cfg` nor `args`: what its model looks like is not known")
    name = model.get("_name", model.get("arch", ""))
    if not str(name).startswith("hubert"):
        raise ConfigError(f"{path} holds a fairseq model of type {name!r}; the encoder needs a HuBERT")
    needed = ("encoder_embed_dim", "encoder_layers", "encoder_attention_heads", "encoder_ffn_embed_dim")
    if missing := [key for key in needed if key not in model]:
        raise ConfigError(f"{path}: the model's configuration lacks {', '.join(missing)}")
    return model, task


def _plain(value: Any) -> Any:
    """Namespaces and OmegaConf containers as dicts, lists and scalars."""
    if isinstance(value, _Record):
        attributes = vars(value)
        if "_content" in attributes:
            return _plain(attributes["_content"])
        return _plain(attributes["_val"]) if "_val" in attributes else _plain(attributes)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def parse_conv_layers(expression: str) -> list[tuple[int, int, int]]:
    """fairseq's "[(512,10,5)] + [(512,3,2)] * 4 + ..." as a list, computed without evaluating it as code.

    Raises:
        ConfigError: anything but lists of three integers, + and *.
    """

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return value(node.left) + value(node.right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            left, right = value(node.left), value(node.right)
            if not {type(left), type(right)} <= {list, int} or max(left if isinstance(left, int) else right, 0) > 64:
                raise ValueError("a list is repeated at most 64 times")
            return left * right
        return ast.literal_eval(node)

    try:
        layers = [tuple(layer) for layer in value(ast.parse(str(expression), mode="eval").body)]
    except (ValueError, SyntaxError, TypeError) as error:
        raise ConfigError(f"conv_feature_layers {expression!r} cannot be read: {error}") from error
    if not layers or not all(len(layer) == 3 and all(isinstance(number, int) for number in layer) for layer in layers):
        raise ConfigError(f"conv_feature_layers {expression!r} must list (width, kernel, stride)")
    return layers
