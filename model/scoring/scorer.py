"""Log-likelihoods of endings given their prompts: many documents in a packed batch, each as if it stood alone.

Shape suffixes: N elements, R rows with a target.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from model.data.compose import Composer
from model.data.packing import PackingConfig, Piece, pack, whole
from model.inference.patching import Patching, make_patching
from model.inference.trained import Trained
from model.network.base import SpeechTextModel
from model.network.head import to_share
from model.network.layout import target_rows
from model.scoring.documents import (
    DIRECTIONS,
    Choice,
    Direction,
    can_be_scored,
    check_endings,
    common_length,
    make_choices,
    patch,
)
from schemas.config import ConfigError
from schemas.tasks import Task, TaskItem

Normalisation = Literal["sum", "token", "length", "whole"]
Precision = Literal["fp64", "fp32", "bf16"]
NORMALISATIONS: tuple[Normalisation, ...] = ("sum", "token", "length", "whole")

DIGITS = 6
"""Scores are rounded to a millionth of a nat: far above what the order of sums in fp64 can change (1e-10), far below what tells
two endings apart. So neither the batch nor the number of threads shows, and equal endings tie."""

HEAD_ROWS = 2048
"""Rows that go through the output head at once: logits are the largest tensor."""


@dataclass(frozen=True, kw_only=True)
class EndingScore:
    """Log-likelihoods of one ending in nats."""

    log_prob: float
    """Of the ending, given the prompt and the ending's mark."""
    elements: int
    """Tokens or units of the ending (tokens of the unit BPE where the model has one)."""
    length: float
    """Seconds of a spoken ending, characters of a written one."""
    joint: float
    """Of prompt and ending, marks included."""
    joint_elements: int

    def value(self, normalisation: Normalisation) -> float:
        """What endings are compared by: the sum, per token or unit, per second or character, or slamkit's mean over the whole
        sequence, prompt included."""
        if normalisation == "sum":
            return self.log_prob
        if normalisation == "whole":
            return self.joint / self.joint_elements
        return self.log_prob / (self.elements if normalisation == "token" else self.length)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An item scored in one direction."""

    id: str
    group: str
    direction: Direction
    answer: int
    endings: tuple[EndingScore, ...]
    cluster: str = ""
    """Items of one cluster share a story and are resampled together; an item without one is its own."""
    choice: str = ""
    """Names the endings: items of a cluster with equal `choice` have the same endings in the same order."""

    def __post_init__(self) -> None:
        if not self.cluster:
            object.__setattr__(self, "cluster", self.id)

    def point(self, normalisation: Normalisation) -> float:
        """1 where the right ending is the likeliest, 0 where it is not, 1 / n where it is one of n that tie."""
        values = [ending.value(normalisation) for ending in self.endings]
        best = max(values)
        return 1 / values.count(best) if values[self.answer] == best else 0.0


@dataclass(frozen=True, kw_only=True)
class ElementScores:
    """A document as the model sees it, from its second element on."""

    nll: list[float]
    """Nats."""
    likeliest: list[bool]
    """The element is the one that the model holds likeliest."""


def score_task(
    trained: Trained,
    task: Task,
    directions: Sequence[Direction] = DIRECTIONS,
    patching: str = "auto",
    precision: Precision = "fp64",
    max_elements: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> list[Scored]:
    """Score every item in each direction that it has the forms for (`can_be_scored`), one direction after the other.

    Raises:
        ConfigError: the task's units are not of the model's making, the patching needs what the task does not have, or the
            tokenizer keeps nothing of an ending.
    """
    scorer = make_scorer(trained, patching, precision, max_elements)
    check_endings(task, directions, scorer.composer)
    if any("S" in direction for direction in directions):
        check_cards(task, trained, scorer.patching)
    return scorer.score(task.items, directions, progress)


def make_scorer(
    trained: Trained, patching: str = "auto", precision: Precision = "fp64", max_elements: int = 8192
) -> Scorer:
    """A checkpoint ready to score.

    Raises:
        ConfigError: its tokenizer is missing, or the patching is not for it.
    """
    plain = trained.module.config.kind == "plain"  # the patches of a plain transformer are its elements
    wanted = make_patching("static:1" if plain else patching, trained.config.patches)
    seconds_per_unit = trained.units.hop / 16_000 if trained.units else 0.0
    return Scorer(trained.module, trained.composer(), wanted, seconds_per_unit, precision, max_elements)


class Scorer:
    """A model ready to score."""

    def __init__(
        self,
        module: SpeechTextModel,
        composer: Composer,
        patching: Patching,
        seconds_per_unit: float,
        precision: Precision = "fp64",
        max_elements: int = 8192,
    ) -> None:
        """fp64 scores with a copy of the module. fp32 takes half the time and memory, and batching shows in the last digits;
        bf16 is fp32 but for its products, as in training with `precision: bf16`."""
        self.module = copy.deepcopy(module).double() if precision == "fp64" else module
        self.products_in_bf16 = precision == "bf16"
        self.module.eval()
        self.composer, self.patching = composer, patching
        self.seconds_per_unit, self.max_elements = seconds_per_unit, max_elements

    def score(
        self,
        items: Sequence[TaskItem],
        directions: Sequence[Direction],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Scored]:
        """See `score_task`. `progress` is called with items done and items in all."""
        pairs = [(item, direction) for direction in directions for item in items if can_be_scored(item, direction)]
        scored: list[Scored] = []
        waiting: list[tuple[TaskItem, Direction, list[Choice]]] = []
        size = 0
        for item, direction in pairs:
            if self.patching.needs_words:
                _check_words(item, direction, self.patching)
            choices = make_choices(item, direction, self.composer)
            added = sum(len(choice.document.ids) for choice in choices)
            if waiting and size + added > self.max_elements:
                scored += self._score_items(waiting)
                waiting, size = [], 0
                if progress is not None:
                    progress(len(scored), len(pairs))
            waiting.append((item, direction, choices))
            size += added
        if waiting:
            scored += self._score_items(waiting)
        if progress is not None:
            progress(len(scored), len(pairs))
        return scored

    def _score_items(self, group: list[tuple[TaskItem, Direction, list[Choice]]]) -> list[Scored]:
        choices = [choice for _, _, members in group for choice in members]
        found = list(self._endings(choices))
        if any(math.isnan(score.joint) or math.isnan(score.log_prob) for score in found):
            raise ConfigError(
                f"the model gives likelihoods that are no numbers among items {group[0][0].id!r} to {group[-1][0].id!r}: "
                "its training diverged; score an earlier checkpoint"
            )
        scores = iter(found)
        return [
            Scored(
                id=item.id,
                group=item.group,
                direction=direction,
                answer=item.answer,
                endings=tuple(next(scores) for _ in members),
                cluster=item.cluster or item.id,
                choice=choice_name(item),
            )
            for item, direction, members in group
        ]

    def score_text(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Nats of each continuation given its context, both as they stand (a space between them is the caller's), and whether
        every token of it is the likeliest one there."""
        results: list[tuple[float, bool]] = []
        waiting: list[Choice] = []
        for number, (context, continuation) in enumerate(pairs):
            prefix = self.composer.text(context, "context").ids[:-1]
            document = self.composer.text(context + continuation, f"request-{number}")
            start = common_length(prefix, document.ids[:-1])
            choice = Choice(
                document=document, start=start, stop=len(document.ids) - 1, is_text=True, length=len(continuation)
            )
            if waiting and sum(len(c.document.ids) for c in waiting) + len(document.ids) > self.max_elements:
                results += self._continuations(waiting)
                waiting = []
            waiting.append(choice)
        return results + self._continuations(waiting)

    def _continuations(self, choices: list[Choice]) -> list[tuple[float, bool]]:
        rows = self.rows([whole(choice.document, *patch(choice, self.patching)) for choice in choices])
        # Products of matrices round differently in other batches, by up to 2e-13 on sums of 700 nats: rounding hides it,
        # so that a score does not depend on what it was batched with.
        return [
            (
                round(-math.fsum(row.nll[choice.start - 1 : choice.stop - 1]), DIGITS),
                all(row.likeliest[choice.start - 1 : choice.stop - 1]),
            )
            for choice, row in zip(choices, rows, strict=True)
        ]

    def _endings(self, choices: list[Choice]) -> Iterator[EndingScore]:
        """The scores of documents that go through the model together."""
        pieces = [whole(choice.document, *patch(choice, self.patching)) for choice in choices]
        for choice, row in zip(choices, self.rows(pieces), strict=True):
            seconds = 1.0 if choice.is_text else self.seconds_per_unit
            yield EndingScore(
                log_prob=round(-math.fsum(row.nll[choice.start - 1 : choice.stop - 1]), DIGITS),
                elements=choice.stop - choice.start,
                length=choice.length * seconds,
                joint=round(-math.fsum(row.nll[: choice.stop - 1]), DIGITS),
                joint_elements=choice.stop - 1,
            )

    @torch.inference_mode()
    def rows(self, pieces: list[Piece]) -> list[ElementScores]:
        """What the model says of elements 1, 2, ... of each document, as if it stood alone."""
        if not pieces:
            return []
        elements, latents = sum(map(len, pieces)), sum(piece.num_latents for piece in pieces)
        budget = PackingConfig(elements=max(elements, 4), latents=max(latents, 4), min_piece=2)
        batch = pack(pieces, budget).to(next(self.module.parameters()).device)
        row_R = target_rows(batch)
        nll_R = row_R.new_zeros(len(row_R), dtype=torch.float64)
        likeliest_R = row_R.new_zeros(len(row_R), dtype=torch.bool)
        with torch.autocast(row_R.device.type, torch.bfloat16, enabled=self.products_in_bf16):
            for part in self.module.head_rows(batch, row_R):
                for index_X, chosen_X in zip(
                    torch.split(part.index, HEAD_ROWS), torch.split(part.chosen, HEAD_ROWS), strict=True
                ):
                    logits_XU = part.head(part.states[index_X]).double()
                    target_X = to_share(batch.ids_N[row_R[chosen_X] + 1], part.head.vocabulary, part.head.share)
                    nll_R[chosen_X] = F.cross_entropy(logits_XU, target_X, reduction="none")
                    likeliest_R[chosen_X] = logits_XU.argmax(-1) == target_X
        nll, likeliest = nll_R.tolist(), likeliest_R.tolist()
        edges = np.cumsum([0] + [len(piece) - 1 for piece in pieces]).tolist()
        return [ElementScores(nll=nll[a:b], likeliest=likeliest[a:b]) for a, b in pairwise(edges)]


def choice_name(item: TaskItem) -> str:
    """Names an item's endings by their content: twins have the same."""
    contents = [[e.text, e.audio, e.units] for e in item.endings]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:12]


def check_cards(task: Task, trained: Trained, patching: Patching) -> None:
    """Refuse a task whose units (and words, where patches follow them) were not made as the model's were.

    Raises:
        ConfigError: naming both cards.
    """
    header, units = task.header, trained.units
    if header.cards is None:
        return  # no item has units, and none is scored as speech
    if units is None:
        raise ConfigError(
            "the checkpoint does not say what made its units, so speech cannot be scored: it was trained on text alone, or "
            "written by older code. In that case run its training for one more step (raise its budget), which writes a "
            "checkpoint that says so; or score text, with --directions 'T->T'"
        )
    kinds = ["unit_tokenizer", "vad", *(("aligner",) if patching.needs_words else ())]
    for kind in kinds:
        ours = {name for name, card in units.cards.items() if card.kind == kind}
        theirs = {name for name, card in header.cards.items() if card.kind == kind}
        if ours and not (theirs and theirs <= ours):
            raise ConfigError(
                f"the task {header.task!r} was made with {kind} {_names(theirs)}, and the model was trained on "
                f"{_names(ours)}: prepare it again with the pipeline configuration of the training data "
                "(jobs/prepare_task.py --config)"
            )
    if (header.num_units, header.hop) != (units.num_units, units.hop):
        raise ConfigError(
            f"the task {header.task!r} has {header.num_units} units of {header.hop} samples, and the model was trained on "
            f"{units.num_units} of {units.hop} samples"
        )


def _names(cards: set[str]) -> str:
    return ", ".join(sorted(cards)) or "none"


def _check_words(item: TaskItem, direction: Direction, patching: Patching) -> None:
    prompt_form, ending_form = direction.split("->")
    segments = [item.prompt] if prompt_form == "S" else []
    if ending_form == "S" and patching.tells_boundaries:
        segments += item.endings
    if any(segment.units and not segment.words for segment in segments):
        raise ConfigError(
            f"item {item.id!r} has speech without words, and aligned patches need them: prepare the task with "
            "words, or score with --patching static:4"
        )
