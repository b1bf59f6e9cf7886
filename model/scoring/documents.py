"""Documents for scoring: a prompt and one of its endings, laid out as the documents of training are.

T->T  BOS <t> prompt ending EOS       one text, a space between the two
S->S  BOS <s> prompt ending EOS       one span of speech, as the segments of a passage in training
S->T  BOS <s> prompt <t> ending EOS   as `asr`
T->S  BOS <t> prompt <s> ending EOS   as `tts`

Prompt and ending of one modality continue one span: no training document has two spans of a modality in a row (docs/scoring.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from model.data.compose import Composer, Utterance
from model.data.document import Document
from model.data.draws import generator
from model.data.patching import (
    assign_patches,
)
from model.inference.patching import Patching
from schemas.errors import ConfigError
from schemas.tasks import Task, TaskItem, TaskSegment

Direction = Literal["S->S", "T->T", "S->T", "T->S"]
DIRECTIONS: tuple[Direction, ...] = ("S->S", "T->T", "S->T", "T->S")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A prompt with one of its endings."""

    document: Document
    start: int
    """First element of the ending: what stands before it is the same for all endings of the item."""
    stop: int
    """Element after the ending's last; what follows is EOS, which is not scored."""
    is_text: bool
    """The ending's form."""
    length: float
    """Of the ending: characters for text, units for speech."""


def can_be_scored(item: TaskItem, direction: Direction) -> bool:
    """Whether the item has all forms that a direction needs."""
    prompt, ending = direction.split("->")
    return _has(item.prompt, prompt) and all(_has(segment, ending) for segment in item.endings)


def _has(segment: TaskSegment, form: str) -> bool:
    return segment.is_empty or (bool(segment.text.strip()) if form == "T" else segment.units is not None)


def make_choices(item: TaskItem, direction: Direction, composer: Composer) -> list[Choice]:
    """A document per ending."""
    prefix = _compose(item.prompt, TaskSegment(text=""), direction, composer, item.id).ids[:-1]
    documents = [
        _compose(item.prompt, ending, direction, composer, f"{item.id}#{number}")
        for number, ending in enumerate(item.endings)
    ]
    # A token may reach over the edge between prompt and ending: it is scored with the ending, for all endings alike.
    start = min(common_length(prefix, document.ids[:-1]) for document in documents)
    choices = []
    for document, ending in zip(documents, item.endings, strict=True):
        stop, is_text = len(document.ids) - 1, direction.endswith("T")
        if is_text:
            length = float(len(ending.text.strip()))
        else:
            tokens = document.ids[start:stop] - composer.vocabulary.unit_offset
            length = float(len(tokens) if composer.unit_bpe is None else composer.unit_bpe.lengths[tokens].sum())
        choices.append(Choice(document=document, start=start, stop=stop, is_text=is_text, length=length))
    return choices


def check_endings(task: Task, directions: Sequence[Direction], composer: Composer) -> None:
    """Refuse endings of which no token is left, before anything is scored: they have no likelihood per token.

    Raises:
        ConfigError: naming the file and the item.
    """
    pairs = [
        (item, direction)
        for direction in directions
        for item in task.items
        if direction.endswith("T") and can_be_scored(item, direction)
    ]
    for item, direction in pairs:
        for ending, choice in zip(item.endings, make_choices(item, direction, composer), strict=True):
            if choice.stop == choice.start:
                raise ConfigError(
                    f"{task.path or task.header.task}: item {item.id!r} has the ending {ending.text!r}, of which the model's "
                    "tokenizer keeps nothing",
                    "write it in signs that the tokenizer knows, or leave the item out",
                )


def common_length(a: np.ndarray, b: np.ndarray) -> int:
    """Elements that two sequences of ids begin with alike."""
    size = min(len(a), len(b))
    differs = np.flatnonzero(a[:size] != b[:size])
    return int(differs[0]) if len(differs) else size


def _compose(prompt: TaskSegment, ending: TaskSegment, direction: Direction, composer: Composer, name: str) -> Document:
    if direction == "T->T":
        return composer.text(" ".join(part.text.strip() for part in (prompt, ending) if part.text.strip()), name)
    # Prompt and ending of one modality are one span: no document of training has two spans of a modality in a row, while the
    # segments of a passage follow each other just so.
    if direction == "S->S":
        return composer.speech(_utterance([prompt, ending], "", name))
    if direction == "S->T":
        return composer.transcription(_utterance([prompt], ending.text.strip(), name), "asr", "all")
    return composer.transcription(_utterance([ending], prompt.text.strip(), name), "tts", "all")


def _utterance(segments: Sequence[TaskSegment], text: str, name: str) -> Utterance:
    """The segments' speech as one utterance. It is used whole, so where its words are spoken shows in its patches alone."""
    spoken = [segment for segment in segments if segment.units]
    arrays = [_aligned(segment) for segment in spoken] or [(np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int8))]
    units = [np.asarray(segment.units, dtype=np.uint16) for segment in spoken] or [np.zeros(0, dtype=np.uint16)]
    return Utterance(
        name=name,
        text=text,
        char_spans=[],
        words=np.zeros((0, 2), dtype=np.int32),
        units=np.concatenate(units),
        patch_start=np.concatenate([starts for starts, _ in arrays]),
        patch_kind=np.concatenate([kinds for _, kinds in arrays]),
        char_frames=None,
    )


def _aligned(segment: TaskSegment) -> tuple[np.ndarray, np.ndarray]:
    """Patch starts and kinds as the pipeline's `patches` stage has them: a patch per word, one per silence between."""
    assert segment.units is not None
    start, kind = np.zeros(len(segment.units), dtype=bool), np.ones(len(segment.units), dtype=np.int8)
    start[0] = True
    for _, first, end in segment.words or []:
        if end > first:
            start[first] = True
            kind[first:end] = 0
            start[end : end + 1] = True
    return start, kind


def patch(choice: Choice, patching: Patching) -> tuple[np.ndarray, np.ndarray]:
    """Latent of each element and whether it is closed (see `assign_patches`)."""
    rng = generator(0)  # nothing here draws
    if patching.prompt == patching.ending:
        return assign_patches(patching.prompt, choice.document, 1.0, rng)
    first, first_closed = assign_patches(patching.prompt, _part(choice.document, slice(choice.start)), 1.0, rng)
    second, closed = assign_patches(patching.ending, _part(choice.document, slice(choice.start, None)), 1.0, rng)
    return np.concatenate([first, second + first[-1] + 1]), np.concatenate([first_closed, closed])


def _part(document: Document, rows: slice) -> Document:
    names = ("ids", "is_unit", "patch_start", "patch_kind", "token_start", "target")
    return replace(document, **{name: getattr(document, name)[rows] for name in names})
