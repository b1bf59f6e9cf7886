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
from pydantic import TypeAdapter, ValidationError

from model.compose import Composer, Utterance
from model.document import Document
from model.order import generator
from model.patching import (
    AlignedConfig,
    BpeAlignedConfig,
    CurriculumConfig,
    DynamicConfig,
    MixedConfig,
    PatchPolicyConfig,
    StaticConfig,
    assign_patches,
)
from schemas.config import ConfigError
from schemas.tasks import Segment, TaskItem

Direction = Literal["S->S", "T->T", "S->T", "T->S"]
DIRECTIONS: tuple[Direction, ...] = ("S->S", "T->T", "S->T", "T->S")
Policy = StaticConfig | AlignedConfig | BpeAlignedConfig | DynamicConfig

LEAK_FREE_SIZE = 5
"""Units per patch of an ending where the model knows aligned patches alone: their mean length in speech."""


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


@dataclass(frozen=True, kw_only=True)
class Patching:
    """Which patches a document gets: those of the prompt, and those of the ending. Where the two are the same the grid runs on
    from one into the other, as in training; otherwise it restarts at the ending."""

    prompt: Policy
    ending: Policy

    @property
    def needs_words(self) -> bool:
        """Whether the words of an utterance must be known."""
        return not isinstance(self.prompt, StaticConfig | DynamicConfig) or self.tells_boundaries

    @property
    def tells_boundaries(self) -> bool:
        """Whether the model is told where the words of the ending begin, which it could not know from what was said so far."""
        return not isinstance(self.ending, StaticConfig | DynamicConfig)


def make_patching(wish: str, trained: PatchPolicyConfig) -> Patching:
    """The patching that `--patching` asks for.

    auto            as trained, without telling the model where the words of the ending are: mixed and curriculum by the part that
                    needs no alignment; aligned by the prompt's words, then patches of LEAK_FREE_SIZE
    aligned         words, in prompt and ending: what aligned training had, and a model is told the ending's boundaries
    static:4        patches of four units
    dynamic:2:8     the novelty rule with smallest and greatest patch

    Raises:
        ConfigError: it is none of these, or the model was not trained with aligned patches.
    """
    aligned, free = _parts(trained)
    if wish == "auto":
        if free is not None:
            return Patching(prompt=free, ending=free)
        rest = StaticConfig(policy="static", size=LEAK_FREE_SIZE)
        return Patching(prompt=aligned if isinstance(aligned, AlignedConfig) else rest, ending=rest)
    if wish == "aligned":
        if not isinstance(aligned, AlignedConfig):
            raise ConfigError(f"patching 'aligned' is for models trained with it; this one has {trained.policy!r}")
        return Patching(prompt=aligned, ending=aligned)
    name, *numbers = wish.split(":")
    fields: dict[str, object] = {"policy": name}
    if name == "static" and len(numbers) == 1:
        fields |= {"size": numbers[0]}
    elif name == "dynamic" and len(numbers) == 2:
        fields |= {"rule": "novelty", "min_size": numbers[0], "max_size": numbers[1]}
    else:
        raise ConfigError(f"unknown patching {wish!r}; give auto, aligned, static:SIZE or dynamic:MIN:MAX")
    try:
        policy: StaticConfig | DynamicConfig = TypeAdapter(StaticConfig | DynamicConfig).validate_python(fields)
    except ValidationError as error:
        raise ConfigError(f"patching {wish!r}: {error.errors()[0]['msg']}") from error
    return Patching(prompt=policy, ending=policy)


def _parts(trained: PatchPolicyConfig) -> tuple[Policy | None, StaticConfig | DynamicConfig | None]:
    """The part of a policy that needs alignment, and the one that does not."""
    members: Sequence[Policy] = (
        (trained.aligned, trained.otherwise) if isinstance(trained, MixedConfig | CurriculumConfig) else (trained,)
    )
    aligned = [part for part in members if isinstance(part, AlignedConfig | BpeAlignedConfig)]
    free = [part for part in members if isinstance(part, StaticConfig | DynamicConfig)]
    return aligned[0] if aligned else None, free[0] if free else None


def can_be_scored(item: TaskItem, direction: Direction) -> bool:
    """Whether the item has all forms that a direction needs."""
    prompt, ending = direction.split("->")
    return _has(item.prompt, prompt) and all(_has(segment, ending) for segment in item.endings)


def _has(segment: Segment, form: str) -> bool:
    return segment.is_empty or (bool(segment.text.strip()) if form == "T" else segment.units is not None)


def make_choices(item: TaskItem, direction: Direction, composer: Composer) -> list[Choice]:
    """A document per ending."""
    prefix = _compose(item.prompt, Segment(text=""), direction, composer, item.id).ids[:-1]
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


def common_length(a: np.ndarray, b: np.ndarray) -> int:
    """Elements that two sequences of ids begin with alike."""
    size = min(len(a), len(b))
    differs = np.flatnonzero(a[:size] != b[:size])
    return int(differs[0]) if len(differs) else size


def _compose(prompt: Segment, ending: Segment, direction: Direction, composer: Composer, name: str) -> Document:
    if direction == "T->T":
        return composer.text(" ".join(part.text.strip() for part in (prompt, ending) if part.text.strip()), name)
    if direction == "S->S":
        return composer.speech(_utterance([prompt, ending], "", name))
    if direction == "S->T":
        return composer.transcription(_utterance([prompt], ending.text.strip(), name), "asr", "all")
    return composer.transcription(_utterance([ending], prompt.text.strip(), name), "tts", "all")


def _utterance(segments: Sequence[Segment], text: str, name: str) -> Utterance:
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


def _aligned(segment: Segment) -> tuple[np.ndarray, np.ndarray]:
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
