"""A toy tokenizer, a bigram model whose probabilities are known, and tasks drawn at random."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from model.data.compose import Composer
from model.inference.patching import Patching, make_patching
from model.network.base import HeadRows, SpeechTextModel
from model.network.batch import Batch
from model.network.head import OutputHead
from model.network.vocabulary import Vocabulary
from model.scoring.scorer import Scorer
from schemas.cards import Card
from schemas.tasks import TaskItem, TaskSegment
from tests.model.network.cases import VOCABULARY, plain_config, policy

SECONDS = 0.04


class Letters:
    """Letters a, b, c, ... are tokens 0, 1, 2, ...; white space is dropped."""

    size = VOCABULARY.num_text
    card = Card(kind="text_tokenizer", name="letters", facts={})

    def encode(self, text: str) -> tuple[list[int], list[int]]:
        found = [(ord(letter) - ord("a"), at) for at, letter in enumerate(text) if not letter.isspace()]
        return [token for token, _ in found], [at for _, at in found]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(chr(ord("a") + token) for token in ids)


class Table(OutputHead):
    """States are logits already."""

    def forward(self, x_RD: torch.Tensor) -> torch.Tensor:
        return x_RD


class Bigram(SpeechTextModel):
    """p(next | element) from a table of logits [V, V]."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__(plain_config())
        self.logits_VV = torch.nn.Parameter(logits)
        self.table = Table(2, 1e-5, VOCABULARY, "joint")

    def head_rows(self, batch: Batch, row_R: torch.Tensor) -> list[HeadRows]:
        rows = torch.arange(len(row_R))
        return [HeadRows(self.table, self.logits_VV[batch.ids_N], row_R, rows)]

    def log_prob(self, ids: list[int]) -> float:
        """Of ids[1:] given ids[0], one at a time."""
        table = F.log_softmax(self.logits_VV.detach().double(), -1)
        return sum(float(table[a, b]) for a, b in pairwise(ids))


def composer(vocabulary: Vocabulary = VOCABULARY) -> Composer:
    """Over the toy vocabulary."""
    return Composer(Letters(), vocabulary, token_starts=False)


def scorer(module: SpeechTextModel, patching: Patching | str = "auto", **settings: int | str) -> Scorer:
    """A scorer of the toy vocabulary; a patching is of a model that was trained with static patches of four."""
    wanted = patching if isinstance(patching, Patching) else make_patching(patching, policy("static"))
    return Scorer(module, composer(), wanted, SECONDS, **settings)  # type: ignore[arg-type]


def segment(rng: np.random.Generator, size: int) -> TaskSegment:
    """Letters, one word each, and a few units per letter; a silence now and then."""
    letters = rng.integers(0, VOCABULARY.num_text, size)
    units: list[int] = []
    words = []
    for letter in letters:
        units += rng.integers(0, VOCABULARY.num_units, int(rng.integers(0, 2))).tolist()
        start = len(units)
        units += rng.integers(0, VOCABULARY.num_units, int(rng.integers(1, 6))).tolist()
        words.append((chr(ord("a") + letter), start, len(units)))
    return TaskSegment(text=" ".join(word for word, _, _ in words), units=units, words=words)


def random_items(seed: int, count: int, endings: int = 2) -> list[TaskItem]:
    """Items with prompts of up to seven words; one in four has none."""
    rng = np.random.default_rng(seed)
    items = []
    for number in range(count):
        size = int(rng.integers(0, 8)) if number % 4 else 0
        items.append(
            TaskItem(
                id=f"item-{number}",
                group="ab"[number % 2],
                prompt=segment(rng, size) if size else TaskSegment(text=""),
                endings=[segment(rng, int(rng.integers(1, 6))) for _ in range(endings)],
                answer=int(rng.integers(endings)),
            )
        )
    return items
