"""Backend `qwen3`: Qwen3-ForcedAligner by transformers, from a local model and without a network.

The model reads the segment's sound and its words with two time marks after each, and classifies each mark: class k is k times
80 ms. So times lie on that grid, and a word's score is how probable the two classes are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.align.base import AlignError, Alignment, WordTiming
from pipeline.networks.model_files import (
    beside_model,
    model_directory,
    read_json,
    torch_device,
    weight_hashes,
    whole_model,
)
from pipeline.networks.resolver import Wanted, licence_notes
from pipeline.text.tokens import Token
from schemas.audio import SAMPLE_RATE
from schemas.cards import Card, hash_directory
from schemas.config import ConfigError
from schemas.spec import QwenAlignSpec

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""Beside the weights; which of them a directory has depends on the version that wrote it."""


class QwenAligner:
    """Words by Qwen3ASRForTokenClassification, one segment at a time."""

    def __init__(self, spec: QwenAlignSpec) -> None:
        self._spec = spec
        self._model: Any = None
        self._processor: Any = None
        self._device = "cpu"

    def card(self) -> Card:
        """Hashes of the model's files and the version of the rules above."""
        directory = model_directory(self._spec.model, "words.model")
        files = {**weight_hashes(directory), **hash_directory(directory, FILES)}
        return Card(
            kind="aligner",
            name=Path(self._spec.model.partition("@")[0]).name.lower(),
            facts={"files": files, "rules": "qwen3-marks-1"},
            notes=licence_notes(Wanted(field="words.model", form="hf", name=self._spec.model)),
        )

    def open(self) -> None:
        """Load model and processor.

        Raises:
            ConfigError: they are not those of a Qwen3 forced aligner.
        """
        from transformers import Qwen3ASRForTokenClassification, Qwen3ASRProcessor

        directory = model_directory(self._spec.model, "words.model")
        kind = read_json(directory / "config.json").get("model_type")
        if kind != "qwen3_asr":
            raise ConfigError(f"{directory} holds a {kind!r} model; a Qwen3ASRForTokenClassification is needed")
        self._device = torch_device(self._spec.device)
        recogniser = "it recognises speech, and a forced aligner (Qwen3-ForcedAligner) is needed"
        self._model = whole_model(Qwen3ASRForTokenClassification, directory, recogniser)
        self._processor = beside_model(Qwen3ASRProcessor, directory)
        self._model = self._model.eval().requires_grad_(False).to(self._device)

    def close(self) -> None:
        """Release the model."""
        self._model = self._processor = None

    def align(self, audio: np.ndarray, tokens: Sequence[Token], language: str) -> Alignment:
        """See WordAligner. None for tokens without a letter or digit.

        Raises:
            AlignError: the model does not align this language, or the probabilities of its times are too low.
        """
        _check_language(language)
        # Its own cutting: whole words, and the characters of Chinese and Japanese one by one.
        parts = [self._processor.split_words_for_alignment(token.text) for token in tokens]
        words = [word for part in parts for word in part]
        if not words:
            raise AlignError("the transcript has no characters to align")
        found = iter(self._times(audio, words))
        timings: list[WordTiming | None] = []
        for part in parts:
            marks = [next(found) for _ in part]
            timings.append(_timing(marks, len(audio)) if marks else None)
        score = math.exp(float(np.mean([math.log(max(t.score, 1e-9)) for t in timings if t is not None])))
        if score < self._spec.min_score:
            raise AlignError(
                f"the times of the words have a probability of {score:.3f} on average and words.min_score is "
                f"{self._spec.min_score:g}: text and audio do not belong together"
            )
        return Alignment(timings=timings)

    def _times(self, audio: np.ndarray, words: Sequence[str]) -> list[tuple[float, float, float]]:
        """(start, end, probability of both) of each word, in seconds."""
        import torch

        inputs, lists = self._processor.prepare_forced_aligner_inputs(
            audio=[np.asarray(audio, np.float32)], transcript=[" ".join(words)]
        )
        mark = self._model.config.timestamp_token_id
        marks = (inputs["input_ids"][0] == mark).nonzero()[:, 0]
        if lists != [list(words)] or len(marks) != 2 * len(words):
            raise ConfigError(
                f"the chat template of {self._spec.model} puts {len(marks)} time marks after {len(words)} words, "
                "not two after each: it is not that of a forced aligner"
            )
        with torch.inference_mode():
            logits = self._model(**inputs.to(self._device)).logits.float().cpu()
        items = self._processor.decode_forced_alignment(logits, inputs["input_ids"].cpu(), lists, mark)[0]
        sure = torch.softmax(logits[0, marks], dim=-1).amax(dim=-1).reshape(-1, 2).prod(dim=-1).sqrt().tolist()
        return [(item["start_time"], item["end_time"], p) for item, p in zip(items, sure, strict=True)]


def _timing(marks: Sequence[tuple[float, float, float]], length: int) -> WordTiming:
    start = min(round(marks[0][0] * SAMPLE_RATE), length - 1)
    return WordTiming(
        start=start,
        end=min(max(round(marks[-1][1] * SAMPLE_RATE), start + 1), length),
        score=float(np.exp(np.mean([math.log(max(p, 1e-9)) for _, _, p in marks]))),
        timing="aligned",
    )


def _check_language(language: str) -> None:
    from transformers.models.qwen3_asr.processing_qwen3_asr import FORCED_ALIGNER_LANGUAGES, LANGUAGE_CODE_TO_NAME

    if LANGUAGE_CODE_TO_NAME.get(language) not in FORCED_ALIGNER_LANGUAGES:
        codes = sorted(code for code, name in LANGUAGE_CODE_TO_NAME.items() if name in FORCED_ALIGNER_LANGUAGES)
        raise AlignError(f"Qwen3's forced aligner knows {', '.join(codes)}, and the language is {language!r}")
