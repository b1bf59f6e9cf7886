"""The unit BPE: frequent runs of speech units as one token (the paper's "BPE SpeechLLM"). A job writes it, the loader reads it.

A unit is written as one character and a sequence of units as a string; the rest is `tokenizers`' own BPE and its JSON file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from schemas.config import ConfigError

FIRST_CHARACTER = 0x4E00
"""Unit 0. The CJK block is the longest run of characters that no normaliser or splitter treats specially."""
MAX_UNITS = 0x9FFF - FIRST_CHARACTER


class UnitBpe:
    """Tokens over units. Every unit is a token too, so that any sequence can be encoded."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.size: int = tokenizer.get_vocab_size()
        """Tokens in all: the `num_units` of a model over them."""
        by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        self.lengths = np.asarray([len(text) for text, _ in by_id], dtype=np.int64)
        """Units in each token."""
        self._units = [np.asarray([ord(c) - FIRST_CHARACTER for c in text], dtype=np.uint16) for text, _ in by_id]

    @property
    def num_units(self) -> int:
        """Of the speech that it encodes. It has no token for another, and would leave one out."""
        return int((self.lengths == 1).sum())

    @staticmethod
    def train(sequences: Iterable[np.ndarray], num_units: int, size: int) -> UnitBpe:
        """Learn `size` tokens (the paper: 1000) from unit sequences.

        Raises:
            ConfigError: fewer tokens than units, or more units than there are characters for.
        """
        if not num_units <= size or num_units > MAX_UNITS:
            raise ConfigError(
                f"a unit BPE over {num_units} units needs at least as many tokens, and at most {MAX_UNITS} units"
            )
        alphabet = [chr(FIRST_CHARACTER + unit) for unit in range(num_units)]
        trainer = BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
        tokenizer = Tokenizer(BPE())
        tokenizer.train_from_iterator((_text(units) for units in sequences), trainer)
        return UnitBpe(tokenizer)

    @staticmethod
    def load(path: str | Path) -> UnitBpe:
        """Read what `save` wrote.

        Raises:
            ConfigError: the file is missing or holds another tokenizer.
        """
        if not Path(path).is_file():
            raise ConfigError(f"no unit BPE at {path}: train one with jobs/train_unit_bpe.py")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare ones
            raise ConfigError(f"{path} is not a unit BPE that can be read: {error}") from error
        if any(
            not FIRST_CHARACTER <= ord(c) <= FIRST_CHARACTER + MAX_UNITS for text in tokenizer.get_vocab() for c in text
        ):
            raise ConfigError(f"{path} is a tokenizer, but not one of speech units")
        return UnitBpe(tokenizer)

    def save(self, path: str | Path) -> None:
        """Write the JSON file."""
        self._tokenizer.save(str(path), pretty=False)

    def encode(self, units: np.ndarray) -> np.ndarray:
        """Tokens, int64; their `lengths` add up to the number of units."""
        return np.asarray(self._tokenizer.encode(_text(units)).ids, dtype=np.int64)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """The units again, uint16."""
        return np.concatenate([np.zeros(0, dtype=np.uint16), *(self._units[token] for token in tokens)])


def _text(units: np.ndarray) -> str:
    return "".join(map(chr, (np.asarray(units, dtype=np.int64) + FIRST_CHARACTER).tolist()))
