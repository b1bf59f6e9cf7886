"""The encoder of a Whisper model on its own: hidden states per 20 ms of audio, from the file that faster-whisper loads.

Radford et al. 2022, section 2.2. Whisper always hears 30 s and pads what is shorter; here the sinusoidal positions are cut to
the audio's length instead, so that three seconds cost a tenth of thirty.

Shapes: B clips, T frames of 20 ms, D width of the encoder, V mel bands.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.audio import SAMPLE_RATE
from schemas.config import ConfigError

HOP = 320
"""Samples per frame."""
FRAMES = 1_500
"""30 s: what the positions last for."""
HEAD_WIDTH = 64
"""Of every published Whisper."""
_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
"""Numbers of CTranslate2's data types."""


def read_ctranslate2(path: Path, part: Literal["encoder", "decoder"] = "encoder") -> dict[str, np.ndarray]:
    """The tensors of a part of a CTranslate2 model file (binary version 6), by their names without the part's.

    Raises:
        ConfigError: the file is no such file, or this part of it is quantised to integers.
    """
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    position = 0

    def take(layout: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from("<" + layout, data, position)
        position += struct.calcsize("<" + layout)
        return int(value)

    def take_name() -> str:
        nonlocal position
        length = take("H")
        name = bytes(data[position : position + length]).rstrip(b"\0").decode()
        position += length
        return name

    try:
        version, name, _revision = take("I"), take_name(), take("I")
        if version != 6 or name != "WhisperSpec":
            raise ConfigError(f"{path} is a {name!r} of version {version}; a WhisperSpec of version 6 is needed")
        tensors = {}
        for _ in range(take("I")):
            name = take_name()
            shape = [take("I") for _ in range(take("B"))]
            dtype, size = _DTYPES[take("B")], take("I")
            if name.startswith(f"{part}/"):
                array = np.frombuffer(data[position : position + size], dtype).reshape(shape)
                if shape and array.dtype.kind == "i" and array.dtype.itemsize < 4:
                    raise ConfigError(f"{path} is quantised to integers; a file in float16 or float32 is needed")
                tensors[name.removeprefix(f"{part}/")] = array
            position += size
    except (struct.error, KeyError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} is no CTranslate2 model, or it is incomplete: fetch it again") from error
    return tensors


def hash_tensors(tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 of names and values in half precision: the same encoder, whatever file it came in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name], np.float16).tobytes())
    return digest.hexdigest()


class EncoderBlock(nn.Module):
    """A transformer layer, its norms before attention and network."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.attention_norm, self.network_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        num_clips, num_frames, width = x_BTD.shape
        qkv = self.qkv(self.attention_norm(x_BTD)).view(num_clips, num_frames, 3, self.heads, HEAD_WIDTH)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(num_clips, num_frames, width)
        x_BTD = x_BTD + self.out(mixed)
        return x_BTD + self.down(F.gelu(self.up(self.network_norm(x_BTD))))


class WhisperEncoder(nn.Module):
    """Convolutions and transformer layers, without the last norm: only the states between are read.

    Whisper's frame i is centred on sample 320 i and that of a HuBERT or wav2vec2 on 320 i + 160. The audio is shifted by half
    a frame, so that n samples give n // 320 frames on the grid of all other models here.
    """

    positions: Tensor
    filters: Tensor
    window: Tensor

    def __init__(self, *, num_layers: int, width: int, inner: int, num_mels: int) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        self.conv1 = nn.Conv1d(num_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(EncoderBlock(width, inner) for _ in range(num_layers))
        self.register_buffer("positions", torch.zeros(FRAMES, width))
        bank = mel_filter_bank(201, num_mels, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("filters", torch.from_numpy(bank).float().T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(400), persistent=False)

    @classmethod
    def load(cls, tensors: Mapping[str, np.ndarray]) -> WhisperEncoder:
        """The encoder in float32 with the weights of `read_ctranslate2`.

        Raises:
            KeyError: a tensor is missing.
        """
        width, num_mels, _ = tensors["conv1/weight"].shape
        num_layers = sum(name.endswith("self_attention/layer_norm/gamma") for name in tensors)
        inner = len(tensors["layer_0/ffn/linear_0/weight"])
        encoder = cls(num_layers=num_layers, width=width, inner=inner, num_mels=num_mels)
        state = {"positions": tensors["position_encodings/encodings"]}
        for name in ("conv1", "conv2"):
            state |= {f"{name}.{part}": tensors[f"{name}/{part}"] for part in ("weight", "bias")}
        for index in range(len(encoder.blocks)):
            state |= {f"blocks.{index}.{ours}": value for ours, value in _layer(tensors, f"layer_{index}/").items()}
        encoder.load_state_dict({name: torch.from_numpy(value.astype(np.float32)) for name, value in state.items()})
        return encoder

    def log_mel(self, waves: Tensor) -> Tensor:
        """Whisper's input: float32 [B, samples] -> [B, V, 2 * (samples // 320)], each clip relative to its own loudest band."""
        num_frames = waves.shape[-1] // HOP
        shifted = F.pad(waves, (0, HOP))[:, HOP // 2 : HOP // 2 + num_frames * HOP]
        spectrum = torch.stft(shifted, 400, HOP // 2, window=self.window, return_complex=True)[..., :-1]
        log = (self.filters @ (spectrum.real**2 + spectrum.imag**2)).clamp(min=1e-10).log10()
        return (torch.maximum(log, log.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) / 4.0

    def forward(self, mel: Tensor) -> list[Tensor]:
        """[B, V, 2 T] -> what enters the layers and what each gives: num_layers + 1 states [B, T, D].

        Raises:
            ValueError: more than 1,500 frames.
        """
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        if x.shape[1] > FRAMES:
            raise ValueError(f"{x.shape[1]} frames, and the positions of Whisper last for {FRAMES} (30 s)")
        states = [x + self.positions[: x.shape[1]]]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states


def _layer(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """A layer's tensors by the names of `EncoderBlock`. Whisper's keys have no bias: CTranslate2 stores zeros in its place."""
    pairs = {
        "qkv": "self_attention/linear_0",
        "out": "self_attention/linear_1",
        "up": "ffn/linear_0",
        "down": "ffn/linear_1",
    }
    found = {
        f"{ours}.{part}": tensors[f"{prefix}{theirs}/{part}"]
        for ours, theirs in pairs.items()
        for part in ("weight", "bias")
    }
    for ours, theirs in {"attention_norm": "self_attention", "network_norm": "ffn"}.items():
        found[f"{ours}.weight"] = tensors[f"{prefix}{theirs}/layer_norm/gamma"]
        found[f"{ours}.bias"] = tensors[f"{prefix}{theirs}/layer_norm/beta"]
    return found
