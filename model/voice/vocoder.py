"""HiFi-GAN over units (Kong et al. 2020; Polyak et al. 2021): loads the generators that fairseq's and textless-lib's recipes
("code HiFi-GAN") write, a `config.json` beside the weights.

Only the path from units to a waveform is here: one vector per unit (and one per speaker, where the vocoder has several), no
duration prediction, since units are kept undeduplicated, and no pitch input.

Shape suffixes: T units, C channels, S samples.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import nn

from schemas.config import ConfigError, StrictModel, parse_config

SLOPE = 0.1
NEEDED = (
    "resblock", "upsample_rates", "upsample_kernel_sizes", "upsample_initial_channel", "resblock_kernel_sizes",
    "resblock_dilation_sizes", "num_embeddings", "embedding_dim", "sampling_rate",
)  # fmt: skip


class VocoderConfig(StrictModel):
    """What of a published `config.json` shapes the generator; its training settings are left aside."""

    resblock: str
    upsample_rates: list[int]
    upsample_kernel_sizes: list[int]
    upsample_initial_channel: int
    resblock_kernel_sizes: list[int]
    resblock_dilation_sizes: list[list[int]]
    num_embeddings: int
    embedding_dim: int
    sampling_rate: int
    num_speakers: int = 0

    @model_validator(mode="after")
    def _lists_go_together(self) -> Self:
        if len(self.upsample_rates) != len(self.upsample_kernel_sizes):
            raise ValueError("upsample_rates and upsample_kernel_sizes must be equally many")
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilation_sizes):
            raise ValueError("resblock_kernel_sizes and resblock_dilation_sizes must be equally many")
        return self

    @property
    def hop(self) -> int:
        """Samples per unit."""
        return int(np.prod(self.upsample_rates))


def read_vocoder_config(path: str | Path) -> VocoderConfig:
    """The configuration in a published `config.json`.

    Raises:
        ConfigError: it cannot be read, lacks a field, or describes a vocoder that needs more than units.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the vocoder configuration {path}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"cannot read the vocoder configuration {path}: it holds no JSON object")
    if missing := [name for name in NEEDED if name not in document]:
        raise ConfigError(f"{path} lacks {', '.join(missing)}: is it the config.json of a unit HiFi-GAN?")
    if document.get("f0") or document.get("f0_quant_num_bin") or document.get("multistream"):
        raise ConfigError(f"{path} is of a vocoder that also needs pitch; one over units alone is wanted")
    if str(document["resblock"]) not in ("1", "2"):
        raise ConfigError(f"{path}: resblock {document['resblock']!r} is unknown; HiFi-GAN has '1' and '2'")
    known: dict[str, Any] = {name: document[name] for name in NEEDED}
    known["resblock"] = str(known["resblock"])
    known["num_speakers"] = document.get("num_speakers") or (200 if document.get("multispkr") else 0)
    return parse_config(VocoderConfig, known, str(path))


class ResBlock(nn.Module):
    """Dilated convolutions around a residual; kind 1 follows each by a plain one."""

    def __init__(self, channels: int, kernel: int, dilations: list[int], kind: str) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Conv1d:
            return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2)

        first = nn.ModuleList(conv(dilation) for dilation in dilations)
        if kind == "1":
            self.convs1, self.convs2 = first, nn.ModuleList(conv(1) for _ in dilations)
        else:
            self.convs = first
        self.kind = kind

    def forward(self, x_CS: torch.Tensor) -> torch.Tensor:
        """[C, S] to the same."""
        for index, first in enumerate(self.convs1 if self.kind == "1" else self.convs):
            update = first(F.leaky_relu(x_CS, SLOPE))
            if self.kind == "1":
                update = self.convs2[index](F.leaky_relu(update, SLOPE))
            x_CS = x_CS + update
        return x_CS


class UnitHiFiGAN(nn.Module):
    """The generator. Parameter names are those of the published checkpoints, weight norm folded in."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.dict = nn.Embedding(config.num_embeddings, config.embedding_dim)
        self.spkr = nn.Embedding(config.num_speakers, config.embedding_dim) if config.num_speakers else None
        width, channels = config.embedding_dim * (2 if config.num_speakers else 1), config.upsample_initial_channel
        self.conv_pre = nn.Conv1d(width, channels, 7, padding=3)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2))
            channels //= 2
            for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(ResBlock(channels, size, dilations, config.resblock))
        self.conv_post = nn.Conv1d(channels, 1, 7, padding=3)

    def forward(self, units_T: torch.Tensor, speaker: int = 0) -> torch.Tensor:
        """Samples in [-1, 1], [T * hop]."""
        x_TC = self.dict(units_T)
        if self.spkr is not None:
            x_TC = torch.cat([x_TC, self.spkr.weight[speaker].expand(len(x_TC), -1)], dim=1)
        x_CS = self.conv_pre(x_TC.T[None])
        kernels = len(self.config.resblock_kernel_sizes)
        for index, up in enumerate(self.ups):
            x_CS = up(F.leaky_relu(x_CS, SLOPE))
            blocks = self.resblocks[index * kernels : (index + 1) * kernels]
            x_CS = torch.stack([block(x_CS) for block in blocks]).sum(0) / kernels
        wave_S: torch.Tensor = torch.tanh(self.conv_post(F.leaky_relu(x_CS)))[0, 0]
        return wave_S


def load_vocoder(config: str | Path, weights: str | Path) -> UnitHiFiGAN:
    """A generator from its `config.json` and its weights (a torch checkpoint, read as tensors alone, or safetensors).

    Raises:
        ConfigError: a file cannot be read, or the weights do not fit the configuration.
    """
    model = UnitHiFiGAN(read_vocoder_config(config))
    try:
        state = _read_tensors(Path(weights))
    except Exception as error:  # unpickling and safetensors raise their own
        raise ConfigError(f"cannot read the vocoder weights {weights} as plain tensors: {error}") from error
    state = {name: tensor for name, tensor in _fold(state).items() if not name.startswith("dur_predictor.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"{weights} does not fit {config}: {str(error).splitlines()[1].strip()}") from error
    model.eval()
    return model


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors: dict[str, torch.Tensor] = load_file(path)
        return tensors
    state = torch.load(path, map_location="cpu", weights_only=True)
    found: dict[str, torch.Tensor] = state.get("generator", state)
    return found


def _fold(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weight norm (w = g v / |v|, the norm over all but the first axis) as plain weights."""
    result = {}
    for name, tensor in state.items():
        if name.endswith(".weight_v"):
            stem = name.removesuffix("_v")
            norm = torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.ndim)), keepdim=True)
            result[stem] = state[stem + "_g"] * tensor / norm
        elif not name.endswith(".weight_g"):
            result[name] = tensor
    return result


class Vocoder:
    """A `Synthesiser` over a unit HiFi-GAN."""

    def __init__(self, model: UnitHiFiGAN, speaker: int = 0) -> None:
        """
        Raises:
            ConfigError: there is no such speaker.
        """
        if not 0 <= speaker < max(1, model.config.num_speakers):
            raise ConfigError(
                f"the vocoder has {max(1, model.config.num_speakers)} speakers, there is no number {speaker}"
            )
        self.model, self.speaker = model, speaker
        self.hop, self.sample_rate = model.config.hop, model.config.sampling_rate

    @torch.inference_mode()
    def __call__(self, units: np.ndarray) -> np.ndarray:
        """float32 [len(units) * hop].

        Raises:
            ConfigError: a unit that the vocoder does not have.
        """
        if len(units) == 0:
            return np.zeros(0, dtype=np.float32)
        units_T = torch.from_numpy(np.asarray(units, dtype=np.int64))
        if int(units_T.max()) >= self.model.config.num_embeddings:
            raise ConfigError(f"the vocoder knows {self.model.config.num_embeddings} units, found {int(units_T.max())}")
        wave: np.ndarray = self.model(units_T, self.speaker).float().numpy()
        return wave
