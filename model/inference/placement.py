"""Where a trained model runs and in which type: the options that every command for one has."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from schemas.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from model.inference.trained import Trained

Dtype = Literal["fp32", "bf16"]
DEVICE_HELP = "cpu, cuda, cuda:1, ... (default: %(default)s)"


def add_placement(parser: argparse.ArgumentParser) -> None:
    """Give a command --device and --dtype, under the same names and defaults everywhere."""
    parser.add_argument("--device", default="cpu", help=DEVICE_HELP)
    parser.add_argument(
        "--dtype", choices=get_args(Dtype), default="fp32", help="of weights and products (default: %(default)s)"
    )


def open_trained(path: str | Path, device: str, dtype: Dtype = "fp32") -> Trained:
    """The model of a run or checkpoint, where the options say.

    Raises:
        CheckpointError: see `load_trained`.
        ConfigError: there is no such device here.
    """
    import torch

    from model.inference.trained import load_trained

    trained = load_trained(path, checked_device(device))
    trained.module.to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    return trained


def checked_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        ConfigError: it is no device, or this machine does not have it.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name} is no device of torch", "say cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs", "use --device cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, NotImplementedError) as error:  # torch knows the name, and this machine or build has none
        raise ConfigError(f"--device {name}: this machine has no such device", "use --device cpu") from error
    return device
