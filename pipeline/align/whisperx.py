"""WhisperX's own forced aligner as a backend, for comparison with ours on the same models."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.align.base import AlignError, Alignment, WordTiming
from pipeline.networks.model_files import model_directory, torch_device, weight_hashes
from pipeline.networks.resolver import Wanted, licence_notes
from pipeline.text.tokens import Token
from schemas.audio import SAMPLE_RATE
from schemas.cards import Card, hash_file
from schemas.config import ConfigError
from schemas.spec import WhisperXAlignSpec


class WhisperXAligner:
    """`whisperx.align` on the spoken words of a segment. Times come in milliseconds; a word ends at the next space."""

    def __init__(self, spec: WhisperXAlignSpec):
        self._spec = spec
        self._model: Any = None
        self._metadata: dict[str, Any] = {}
        self._device = "cpu"

    def card(self) -> Card:
        """Hashes of the model's files and WhisperX's version.

        Raises:
            ConfigError: the model or WhisperX is missing.
        """
        directory = model_directory(self._spec.model, "words.model")
        files = weight_hashes(directory)
        if (directory / "vocab.json").is_file():
            files["vocab.json"] = hash_file(directory / "vocab.json")
        return Card(
            kind="aligner",
            name=f"whisperx-{directory.name.lower()}",
            facts={"files": files, "whisperx": _version()},
            notes=licence_notes(Wanted(field="words.model", form="hf", name=self._spec.model)),
        )

    def open(self) -> None:
        """Load the model.

        Raises:
            ConfigError: WhisperX is not installed, or cannot load the model.
        """
        _version()
        import whisperx.alignment
        from nltk.tokenize import PunktSentenceTokenizer

        # It wants sentence models from the network; spoken words without punctuation are one sentence whoever splits them.
        whisperx.alignment.nltk_load = lambda _: PunktSentenceTokenizer()
        self._device = torch_device(self._spec.device)
        directory = model_directory(self._spec.model, "words.model")
        try:
            self._model, self._metadata = whisperx.alignment.load_align_model(
                "en", self._device, model_name=str(directory)
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"WhisperX cannot load an aligner from {directory}: {str(error).splitlines()[0]}"
            ) from error

    def close(self) -> None:
        """Release the model."""
        self._model = None

    def align(self, audio: np.ndarray, tokens: Sequence[Token], language: str) -> Alignment:
        """A timing per token; None for a token of which nothing is spoken.

        Raises:
            AlignError: WhisperX gives up, or its scores are too low.
        """
        from whisperx.alignment import align

        assert self._model is not None, "open() comes before align()"
        spoken = [word for token in tokens for word in token.spoken]
        segment = {"text": " ".join(spoken), "start": 0.0, "end": len(audio) / SAMPLE_RATE}
        metadata = {**self._metadata, "language": language}
        result = align([segment], self._model, metadata, np.asarray(audio, np.float32), self._device)
        words = [word for item in result["segments"] for word in item["words"]]
        if len(words) != len(spoken) or not all("start" in word and "end" in word for word in words):
            raise AlignError("WhisperX could not align the segment")
        score = float(np.mean([word.get("score", 0.0) for word in words]))
        if score < self._spec.min_score:
            raise AlignError(f"WhisperX's mean score is {score:.4f} and words.min_score is {self._spec.min_score:g}")
        edges = np.concatenate([[0], np.cumsum([len(token.spoken) for token in tokens])])
        timings = [
            _timing(words[first:last], len(audio), set(self._metadata["dictionary"])) if last > first else None
            for first, last in pairwise(edges)
        ]
        return Alignment(timings=_without_overlap(timings))


def _timing(words: list[dict[str, Any]], num_samples: int, letters: set[str]) -> WordTiming:
    start = min(round(words[0]["start"] * SAMPLE_RATE), num_samples - 1)
    end = min(max(round(words[-1]["end"] * SAMPLE_RATE), start + 1), num_samples)
    guessed = any(character.lower() not in letters for word in words for character in word["word"])
    score = float(np.mean([word.get("score", 0.0) for word in words]))
    return WordTiming(start=start, end=end, score=min(max(score, 0.0), 1.0), timing="star" if guessed else "aligned")


def _without_overlap(timings: list[WordTiming | None]) -> list[WordTiming | None]:
    """Rounding to milliseconds can make neighbours overlap: the later word gives way; one that vanishes is not known."""
    end = 0
    result: list[WordTiming | None] = []
    for timing in timings:
        if timing is None or timing.end <= max(timing.start, end):
            result.append(None)
            continue
        start = max(timing.start, end)
        end = timing.end
        result.append(WordTiming(start=start, end=end, score=timing.score, timing=timing.timing))
    return result


def _version() -> str:
    try:
        return version("whisperx")
    except PackageNotFoundError as error:
        raise ConfigError(
            "WhisperX is not installed: run `make setup` in the checkout, or use words.backend: ctc"
        ) from error
