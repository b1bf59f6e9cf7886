"""Emissions for the CTC aligner from Parakeet-CTC: its labels are pieces of words, cut by its own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.align.ctc_model import Alphabet
from pipeline.networks.model_files import torch_dtype
from pipeline.networks.parakeet import ParakeetModel
from pipeline.networks.windows import ConvGrid
from schemas.config import ConfigError
from schemas.spec import CtcSpec

WORD_MARK = "\u2581"
"""SentencePiece's sign for "a word begins"."""


@dataclass(frozen=True, kw_only=True)
class PieceAlphabet(Alphabet):
    """The columns are pieces. What the tokenizer cannot write is the star, one for the whole word."""

    unknown: int | None
    encode: Callable[[str], list[int]]

    def columns(self, word: str) -> list[int]:
        """The columns of a word's pieces, in the case that the model has."""
        for form in (word, word.lower(), word.upper(), word.capitalize()):
            pieces = [piece for piece in self.encode(form) if self.labels[piece] != WORD_MARK]
            if pieces and self.unknown not in pieces:
                return pieces
        return [self.star]

    def width(self, column: int) -> int:
        """The characters of a piece."""
        return 1 if column == self.star else len(self.labels[column].lstrip(WORD_MARK))

    def _is_letter(self, index: int, label: str) -> bool:
        return index not in (self.blank, self.unknown) and any(character.isalnum() for character in label)


class ParakeetPieces:
    """The same verbs as `CtcModel`: `files` is cheap, `open` loads, `log_probs` has a frame for every begun 80 ms."""

    letters_fill_sound = False
    """CTC hears a piece in a frame or two, and loudness tells where its word begins and ends."""

    def __init__(self, spec: CtcSpec):
        self.spec = spec
        self.alphabet = Alphabet(labels=(), blank=0, delimiter=None)
        self._model = ParakeetModel(spec.model, "words.model", spec.device)
        self.batch_size = 1
        self.grid = ConvGrid(hop=self._model.hop, field=self._model.hop)

    def files(self) -> dict[str, str]:
        """What determines the emissions: name -> sha256.

        Raises:
            ConfigError: the model is missing or incomplete.
        """
        return self._model.files()

    def open(self) -> None:
        """Load the model.

        Raises:
            ConfigError: it is no ParakeetForCTC, or its tokenizer is of another size.
        """
        self._model.open()
        self.batch_size = self.spec.batch_size if self._model.device == "cuda" else 1
        tokenizer = self._model.tokenizer
        vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        labels = [""] * self._model.num_labels
        for label, index in vocabulary.items():
            if index >= len(labels):
                raise ConfigError(
                    f"{self.spec.model}: tokenizer.json has the piece {index}, and the model {len(labels)} labels"
                )
            labels[index] = label
        self.alphabet = PieceAlphabet(
            labels=tuple(labels),
            blank=self._model.blank,
            delimiter=None,
            unknown=vocabulary.get("<unk>"),
            encode=lambda word: list(tokenizer.encode(word, add_special_tokens=False).ids),
        )
        self.grid = ConvGrid(hop=self._model.hop, field=self._model.hop)

    def close(self) -> None:
        """Release the model."""
        self._model.close()

    def log_probs(self, audio: np.ndarray) -> np.ndarray:
        """Log probabilities of float32 [n] samples at 16 kHz: float32 [frames, labels]. A segment goes through whole."""
        return self.log_probs_batch([audio])[0]

    def log_probs_batch(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`log_probs` of each clip, in one step."""
        import torch

        with torch.autocast(self._model.device, torch_dtype(self.spec.dtype), enabled=self.spec.dtype != "float32"):
            return self._model.log_probs(clips)
