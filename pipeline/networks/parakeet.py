"""Parakeet-CTC by transformers: log probabilities of word pieces per 80 ms, for a batch of sounds of any lengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.networks.model_files import (
    beside_model,
    model_directory,
    read_json,
    torch_device,
    weight_hashes,
    whole_model,
)
from schemas.audio import SAMPLE_RATE
from schemas.cards import hash_directory
from schemas.config import ConfigError

FILES = ("tokenizer.json", "preprocessor_config.json", "processor_config.json")
"""Beside the weights; which of the two last a directory has depends on the version that wrote it."""
MEL_HOP = 160
LEAST_SAMPLES = 2 * MEL_HOP
"""The extractor divides by the variance over its frames, which one frame has not."""


class ParakeetModel:
    """A ParakeetForCTC with its features and its pieces. `files` is cheap; `open` loads."""

    def __init__(self, name: str, field: str, device: Literal["auto", "cpu", "cuda"]) -> None:
        """`field` is where the spec names the model."""
        self._name, self._field, self._wanted = name, field, device
        self._model: Any = None
        self._extractor: Any = None
        self.tokenizer: Any = None
        """A `tokenizers.Tokenizer`."""
        self.blank = 0
        self.num_labels = 0
        self.hop = 8 * MEL_HOP
        """Samples per frame."""
        self.device = "cpu"

    def files(self) -> dict[str, str]:
        """What determines the emissions: name -> sha256.

        Raises:
            ConfigError: the model is missing or incomplete.
        """
        directory = model_directory(self._name, self._field)
        if not (directory / "tokenizer.json").is_file():
            raise ConfigError(f"{directory} has no tokenizer.json: the pieces of its CTC head are not known")
        return {**weight_hashes(directory), **hash_directory(directory, FILES)}

    def open(self) -> None:
        """Load the model.

        Raises:
            ConfigError: it is no ParakeetForCTC, or its weights, features or pieces do not fit.
        """
        from tokenizers import Tokenizer
        from transformers import ParakeetFeatureExtractor, ParakeetForCTC

        directory = model_directory(self._name, self._field)
        kind = read_json(directory / "config.json").get("model_type")
        if kind != "parakeet_ctc":
            raise ConfigError(f"{directory} holds a {kind!r} model; a ParakeetForCTC (parakeet_ctc) is needed")
        self._model = whole_model(ParakeetForCTC, directory, "it is not a whole ParakeetForCTC")
        self._extractor = beside_model(ParakeetFeatureExtractor, directory)
        self.tokenizer = _tokenizer(Tokenizer, directory / "tokenizer.json")
        config = self._model.config
        self.blank, self.num_labels = int(config.pad_token_id), int(config.vocab_size)
        if self._extractor.sampling_rate != SAMPLE_RATE:
            raise ConfigError(
                f"{directory} hears {self._extractor.sampling_rate} Hz, and the pipeline has {SAMPLE_RATE}"
            )
        self.hop = int(config.encoder_config.subsampling_factor) * int(self._extractor.hop_length)
        self.device = torch_device(self._wanted)
        self._model = self._model.eval().requires_grad_(False).to(self.device)

    def close(self) -> None:
        """Release the model."""
        self._model = self._extractor = None

    def log_probs(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log probabilities of sounds, float32 [n] at 16 kHz each: float32 [frames, labels] each, with a frame for every begun
        `hop`. Shorter ones are padded and masked, so the company that a sound is in changes it by rounding alone."""
        import torch

        assert self._model is not None, "open() comes before log_probs()"
        heard = [number for number, wave in enumerate(waves) if len(wave) >= LEAST_SAMPLES]
        result = [np.zeros((0, self.num_labels), np.float32) for _ in waves]
        if not heard:
            return result
        with torch.inference_mode():
            made = self._extractor(
                [np.asarray(waves[number], np.float32) for number in heard],
                sampling_rate=SAMPLE_RATE,
                return_tensors="pt",
                device="cpu",
            )
            mask = made["attention_mask"].to(self.device)
            logits = self._model(input_features=made["input_features"].to(self.device), attention_mask=mask).logits
            lengths = self._model._get_output_attention_mask(mask, target_length=logits.shape[1]).sum(-1).tolist()
            log_probs = torch.log_softmax(logits.float(), dim=-1).cpu().numpy()
        for row, (number, length) in enumerate(zip(heard, lengths, strict=True)):
            result[number] = log_probs[row, :length]
        return result


def _tokenizer(kind: Any, path: Path) -> Any:
    try:
        return kind.from_file(str(path))
    except Exception as error:  # the library raises bare Exception on a bad file
        raise ConfigError(f"{path} is not a tokenizer that can be read: {error}") from error
