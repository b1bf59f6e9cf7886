"""Text tokenizers behind one face: a Hugging Face `tokenizer.json`, or a SentencePiece model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from schemas.cards import Card, hash_file
from schemas.config import ConfigError
from schemas.models.hub import folder_of

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class TextTokenizer(Protocol):
    """Text to token ids in [0, size) and back. No special tokens are ever added: the joint vocabulary has its own."""

    size: int
    card: Card

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        """The ids, and for each id the first character of `text` that it stands for."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids."""
        ...

    def byte_lengths(self) -> np.ndarray:
        """int64 [size]: bytes of UTF-8 that each id writes, as part of a text."""
        ...


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """The tokenizer in a file (`*.json` or a SentencePiece `*.model`), or in a directory that holds either; a hub name
    (`owner/name[@revision]`) is the directory that it has in this machine's cache.

    Raises:
        ConfigError: there is none, or the file is not what its name says.
    """
    path = tokenizer_file(path)
    if not path.is_file():
        raise ConfigError(
            f"the text tokenizer {path} does not exist; give a tokenizer.json or a SentencePiece model, a hub name that was "
            "fetched (`python -m jobs.fetch_models --config ...`), or train one with `python jobs/train_tokenizer.py`"
        )
    try:
        return _HuggingFace(path) if path.suffix == ".json" else _SentencePiece(path)
    except Exception as error:  # both libraries raise bare Exception or RuntimeError on a bad file
        raise ConfigError(f"{path} is not a text tokenizer that can be read: {error}") from error


def tokenizer_file(path: str | Path) -> Path:
    """The file that a path or hub name of a tokenizer stands for; the path itself where there is none.

    Raises:
        ConfigError: it is a directory without a tokenizer.
    """
    place = folder_of(str(path)) or Path(path)
    if place.is_dir():
        found = [place / name for name in ("tokenizer.json", "tokenizer.model") if (place / name).is_file()]
        if not found:
            raise ConfigError(f"{place} holds neither tokenizer.json nor tokenizer.model")
        return found[0]
    return place


class _HuggingFace:
    """A `tokenizer.json` of the `tokenizers` library."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._path = str(path)
        self._tokenizer = Tokenizer.from_file(self._path)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # Ids need not be 0 .. n - 1 (reserved or late ones): the largest says how many rows the model needs.
        self.size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self.card = _card(path, "tokenizer.json")

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def byte_lengths(self) -> np.ndarray:
        added = {number: token.content for number, token in self._tokenizer.get_added_tokens_decoder().items()}
        pieces = {number: piece for piece, number in self._tokenizer.get_vocab(with_added_tokens=True).items()}
        settings = json.loads(self._tokenizer.to_str())
        parts = json.dumps([settings.get("pre_tokenizer"), settings.get("decoder")])
        bytewise = '"ByteLevel"' in parts  # each character of a piece then stands for one byte
        lengths = np.zeros(self.size, dtype=np.int64)
        for number, piece in pieces.items():
            if number in added:
                lengths[number] = len(added[number].encode("utf-8"))
            else:
                lengths[number] = len(piece) if bytewise else _bytes_of(piece)
        return lengths


class _SentencePiece:
    """A SentencePiece model."""

    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_file=str(path))
        self.size = self._processor.get_piece_size()
        self.card = _card(path, "sentencepiece")

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        pieces = self._processor.encode(text, return_type="proto").pieces
        starts = [piece.begin for piece in pieces]
        if not text.isascii():  # SentencePiece counts bytes
            starts = character_of(text)[starts].tolist()
        return [piece.id for piece in pieces], starts

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._processor.decode(list(ids)))

    def byte_lengths(self) -> np.ndarray:
        control = self._processor.is_control
        lengths = [0 if control(i) else _bytes_of(self._processor.id_to_piece(i)) for i in range(self.size)]
        return np.asarray(lengths, dtype=np.int64)


def _bytes_of(piece: str) -> int:
    """Of a SentencePiece: a byte where it is written as <0x41>, else its letters, its mark of a space as one."""
    return 1 if _BYTE.fullmatch(piece) else len(piece.replace("\u2581", " ").encode("utf-8"))


def character_of(text: str) -> np.ndarray:
    """Which character of `text` each byte of its UTF-8 belongs to; one entry more, for the end. int64 [bytes + 1]"""
    data = np.frombuffer(text.encode("utf-8") + b"\n", np.uint8)
    return np.asarray(np.cumsum((data & 0xC0) != 0x80) - 1)


def _card(path: Path, form: str) -> Card:
    return Card(kind="text_tokenizer", name=path.stem, facts={"form": form, "sha256": hash_file(path)}, notes={})


class UntrainedTokenizer:
    """Stands for a tokenizer that a run will train: a size to plan with. A small text may give fewer tokens."""

    def __init__(self, size: int) -> None:
        """Raises ConfigError: see `train_bpe`."""
        _check_size(size)
        self.size = size
        self.card = Card(
            kind="text_tokenizer", name="untrained", facts={"form": "tokenizer.json", "size": size}, notes={}
        )

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        raise NotImplementedError("the tokenizer has not been trained")

    def decode(self, ids: Iterable[int]) -> str:
        raise NotImplementedError("the tokenizer has not been trained")

    def byte_lengths(self) -> np.ndarray:
        raise NotImplementedError("the tokenizer has not been trained")


def _check_size(size: int) -> None:
    if size < 256:
        raise ConfigError(f"a byte-level vocabulary has at least 256 tokens, {size} were asked for")


def train_bpe(texts: Iterable[str], size: int, path: str | Path) -> Path:
    """Train a byte-level BPE of `size` tokens and write it as a `tokenizer.json`. The same texts give the same bytes.

    Raises:
        ConfigError: `size` is below the 256 bytes that every such vocabulary holds.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    _check_size(size)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    tokenizer.save(str(partial))
    partial.replace(path)
    return path
