"""Hearing and comparing: Whisper on a waveform, and error rates after Whisper's own English normaliser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from schemas.config import ConfigError


class ErrorRates(NamedTuple):
    """Percent, over all utterances together; above 100 where more was inserted than there is."""

    wer: float
    cer: float


def error_rates(references: Sequence[str], heard: Sequence[str]) -> ErrorRates:
    """Word and character error rates, both texts normalised as Whisper's authors do (case, punctuation, numbers, contractions).

    Raises:
        ConfigError: the references have no words at all.
    """
    import jiwer
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normalise = EnglishTextNormalizer({})
    pairs = [(normalise(said), normalise(found)) for said, found in zip(references, heard, strict=True)]
    pairs = [(said, found) for said, found in pairs if said]  # jiwer takes no empty reference
    if not pairs:
        raise ConfigError("there is no reference text to compare with")
    said, found = ([pair[side] for pair in pairs] for side in (0, 1))
    return ErrorRates(100 * float(jiwer.wer(said, found)), 100 * float(jiwer.cer(said, found)))


class GreedyWhisper:
    """Whisper by faster-whisper, greedy, without conditioning on what it heard before."""

    def __init__(self, model: str, threads: int = 1) -> None:
        """`model`: a directory (`make models` fetches Whisper tiny.en) or a name that faster-whisper can download.

        Raises:
            ConfigError: faster-whisper is not installed, or there is no such model.
        """
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise ConfigError("recognition needs faster-whisper: install the extra `whisperx`") from error
        try:
            self._model = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=threads)
        except (RuntimeError, ValueError, OSError) as error:
            raise ConfigError(f"cannot load the Whisper model {model}: {error}; `make models` fetches one") from error

    def __call__(self, audio: np.ndarray, sample_rate: int) -> str:
        """The text of a waveform."""
        if sample_rate != 16_000:
            import soxr

            audio = soxr.resample(audio, sample_rate, 16_000)
        segments, _ = self._model.transcribe(
            audio.astype(np.float32), language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False
        )
        return " ".join(segment.text.strip() for segment in segments)
