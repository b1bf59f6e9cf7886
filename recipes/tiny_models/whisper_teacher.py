"""Features of the Whisper-base encoder without its 30 s padding, from the CTranslate2 file, on HuBERT's 50 Hz grid."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers.audio_utils import mel_filter_bank

from recipes.tiny_models.settings import FRAME
from recipes.voices.settings import SAMPLE_RATE, packages

_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
HEADS = 8


def read_ctranslate2(path: Path) -> dict[str, torch.Tensor]:
    """The encoder tensors of a CTranslate2 model file (binary version 6, not quantised), as float32."""
    data = memoryview(path.read_bytes())
    position = 4  # the binary version

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

    take_name(), take("I")  # the name and revision of the specification
    tensors = {}
    for _ in range(take("I")):
        name = take_name()
        shape = [take("I") for _ in range(take("B"))]
        dtype, size = _DTYPES[take("B")], take("I")
        if name.startswith("encoder/"):
            array = np.frombuffer(data[position : position + size], dtype=dtype).reshape(shape)
            tensors[name.removeprefix("encoder/")] = torch.from_numpy(array.astype(np.float32))
        position += size
    return tensors


class WhisperTeacher:
    """The first layers of the Whisper-base encoder.

    Whisper's frame i is centred on sample 320 i, HuBERT's on 320 i + 160: the audio is shifted by half a frame, so that
    both look at the same place. The positional embedding is cut to the clip's length.
    """

    def __init__(self, num_layers: int, dtype: torch.dtype = torch.float32, model: Path | None = None) -> None:
        tensors = read_ctranslate2(model or packages() / "whisper-base" / "model.bin")
        self._weights = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        self._num_layers = num_layers
        self._dtype = dtype
        filters = mel_filter_bank(201, 80, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
        self._filters = torch.from_numpy(filters).float().T

    @torch.inference_mode()
    def features(self, audio: np.ndarray) -> list[torch.Tensor]:
        """The output of each layer, [num_samples // 320, 512] each, for int16 or float audio at 16 kHz."""
        wave = torch.from_numpy(np.asarray(audio, dtype=np.float32))
        wave = wave / 32768 if audio.dtype == np.int16 else wave
        num_frames = len(wave) // FRAME
        x = self._stem(self._mel(wave[FRAME // 2 :], num_frames))
        outputs = []
        for layer in range(self._num_layers):
            x = self._block(x, f"layer_{layer}/")
            outputs.append(x.float())
        return outputs

    def _mel(self, wave: torch.Tensor, num_frames: int) -> torch.Tensor:
        wave = F.pad(wave, (0, max(0, num_frames * FRAME - len(wave))))
        power = torch.stft(wave, 400, 160, window=torch.hann_window(400), return_complex=True)[:, :-1].abs() ** 2
        log = (self._filters @ power).clamp(min=1e-10).log10()
        return (torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0

    def _stem(self, mel: torch.Tensor) -> torch.Tensor:
        w = self._weights
        x = F.gelu(F.conv1d(mel[None].to(self._dtype), w["conv1/weight"], w["conv1/bias"], padding=1))
        x = F.gelu(F.conv1d(x, w["conv2/weight"], w["conv2/bias"], stride=2, padding=1))[0].T
        return x + w["position_encodings/encodings"][: len(x)]

    def _block(self, x: torch.Tensor, prefix: str) -> torch.Tensor:
        w = {name.removeprefix(prefix): value for name, value in self._weights.items() if name.startswith(prefix)}

        def norm(name: str, value: torch.Tensor) -> torch.Tensor:
            return F.layer_norm(value, value.shape[-1:], w[f"{name}/layer_norm/gamma"], w[f"{name}/layer_norm/beta"])

        def linear(name: str, value: torch.Tensor) -> torch.Tensor:
            return F.linear(value, w[f"{name}/weight"], w.get(f"{name}/bias"))

        fused = linear("self_attention/linear_0", norm("self_attention", x))
        q, k, v = (part.view(len(x), HEADS, -1).transpose(0, 1) for part in fused.chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None])[0].transpose(0, 1).reshape(x.shape)
        x = x + linear("self_attention/linear_1", mixed)
        hidden = F.gelu(linear("ffn/linear_0", norm("ffn", x)))
        return x + linear("ffn/linear_1", hidden)
