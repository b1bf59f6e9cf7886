"""What Whisper makes of a clip, layer by layer, on HuBERT's 50 Hz grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.networks.whisper.encoder import WhisperEncoder, read_ctranslate2
from recipes.voices.settings import packages


class WhisperTeacher:
    """The first layers of the Whisper-base encoder, or of the one in `model` (a CTranslate2 file)."""

    def __init__(self, num_layers: int, dtype: torch.dtype = torch.float32, model: Path | None = None) -> None:
        self._encoder = WhisperEncoder.load(read_ctranslate2(model or packages() / "whisper-base" / "model.bin"))
        self._encoder.blocks = self._encoder.blocks[:num_layers]
        self._dtype = dtype

    @torch.inference_mode()
    def features(self, audio: np.ndarray) -> list[torch.Tensor]:
        """The output of each layer, float32 [num_samples // 320, 512] each, for int16 or float audio at 16 kHz."""
        wave = torch.from_numpy(np.asarray(audio, dtype=np.float32))
        mel = self._encoder.log_mel((wave / 32768 if audio.dtype == np.int16 else wave)[None])
        with torch.autocast("cpu", self._dtype, enabled=self._dtype != torch.float32):
            return [state[0].float() for state in self._encoder(mel)[1:]]
