"""Packing documents into batches of fixed size, against two budgets at once: elements and latents.

Documents are laid end to end. Where `split` allows it, the document that meets the end of a batch is cut at a patch start and
goes on in a later batch. The rest of a cut document begins with the mark of the modality in force, which is context and no
target: it sees nothing of the first part, and every element of a document is a target exactly once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import Field, model_validator

from model.data.document import Document
from model.network.vocabulary import PAD, SPEECH_MARK, TEXT_MARK
from schemas.config import ConfigError, StrictModel

if TYPE_CHECKING:
    import torch

    from model.network.batch import Batch


class PackingConfig(StrictModel):
    """The two budgets, and how documents are fitted into them."""

    elements: int = Field(gt=1)
    """Per micro-batch: text tokens, units and marks."""
    latents: int = Field(gt=1)
    """Per micro-batch: patches, with each element that is not a unit as one."""
    split: bool = True
    """Cut documents at the end of a batch. Otherwise only those that are longer than a whole batch are cut."""
    lookahead: int = Field(1, ge=1)
    """Documents held ready, of which the longest that fits is taken next. 1 keeps their order."""
    min_piece: int = Field(16, ge=2)
    """A cut leaves no piece with fewer elements."""

    @model_validator(mode="after")
    def _pieces_fit(self) -> Self:
        if 2 * self.min_piece > min(self.elements, self.latents):
            raise ValueError(f"min_piece {self.min_piece} must be at most half of both budgets")
        return self


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A patched document, or what is left of one."""

    ids: np.ndarray
    is_unit: np.ndarray
    latent_id: np.ndarray
    """int [n]: starts at 0, never decreases, grows by at most 1."""
    closed: np.ndarray
    target: np.ndarray
    sample_id: str
    offset: int = 0
    """Element of the whole document at which this piece begins."""
    source: int = 0
    """Number of the source that the document comes from."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_latents(self) -> int:
        return int(self.latent_id[-1]) + 1


def whole(document: Document, latent_id: np.ndarray, closed: np.ndarray, source: int = 0) -> Piece:
    """A document of a source, with its patches."""
    return Piece(
        ids=document.ids,
        is_unit=document.is_unit,
        latent_id=latent_id,
        closed=closed,
        target=document.target,
        sample_id=document.sample_id,
        source=source,
    )


def rest_of(document: Piece, offset: int) -> Piece:
    """What is left of a whole document from element `offset` on, headed by the mark in force there."""
    if offset == 0:
        return document
    assert document.offset == 0, "a rest is taken from the whole document"
    assert document.latent_id[offset] > document.latent_id[offset - 1], "cut inside a patch"
    before = document.ids[:offset]
    mark = int(before[np.flatnonzero((before == TEXT_MARK) | (before == SPEECH_MARK))[-1]])
    return Piece(
        ids=np.concatenate([[mark], document.ids[offset:]]).astype(document.ids.dtype),
        is_unit=np.concatenate([[False], document.is_unit[offset:]]),
        latent_id=np.concatenate([[0], document.latent_id[offset:] - document.latent_id[offset] + 1]),
        closed=np.concatenate([[True], document.closed[offset:]]),
        target=np.concatenate([[False], document.target[offset:]]),
        sample_id=document.sample_id,
        offset=offset,
        source=document.source,
    )


def cut(piece: Piece, elements: int, latents: int, min_piece: int) -> Piece | None:
    """The longest head of `piece` within the two budgets that ends before a patch start; None where the cut would leave a
    piece shorter than `min_piece` on either side."""
    longest = min(elements, int(np.searchsorted(piece.latent_id, latents)), len(piece) - min_piece)
    if longest < min_piece:
        return None
    starts = np.flatnonzero(np.diff(piece.latent_id[: longest + 1])) + 1
    starts = starts[starts >= max(min_piece, 3)]  # past BOS and the first mark, so that the rest has a mark in force
    if not len(starts):
        return None
    length = int(starts[-1])
    return Piece(
        ids=piece.ids[:length],
        is_unit=piece.is_unit[:length],
        latent_id=piece.latent_id[:length],
        closed=piece.closed[:length],
        target=piece.target[:length],
        sample_id=piece.sample_id,
        offset=piece.offset,
        source=piece.source,
    )


@dataclass(frozen=True)
class Pick:
    """A pending document taken for a batch: its place among the pending ones, and where it was cut (None: it is used up)."""

    place: int
    piece: Piece
    cut_at: int | None


def fill(config: PackingConfig, pending: Callable[[int], Piece], refill: Callable[[Pick], None]) -> list[Piece]:
    """Choose pieces for one batch.

    `pending(i)` is the i-th of `config.lookahead` pending pieces, oldest first; `refill` removes or shortens the chosen one
    and brings in the next document. The oldest opens the batch, so that none waits for ever; then the longest that fits
    follows, until none does; then the oldest is cut to fill what is left.

    Raises:
        ConfigError: a patch is larger than a batch.
    """
    chosen: list[Piece] = []
    elements, latents = config.elements, config.latents
    while True:
        waiting = [pending(place) for place in range(config.lookahead)]
        fitting = [i for i, piece in enumerate(waiting) if len(piece) <= elements and piece.num_latents <= latents]
        if not chosen:
            fitting = [i for i in fitting if i == 0]
        if fitting:
            place = max(fitting, key=lambda i: len(waiting[i]))
            choice = Pick(place, waiting[place], None)
        elif config.split or not chosen:
            head = cut(waiting[0], elements, latents, config.min_piece)
            if head is None:
                if not chosen:
                    raise ConfigError(
                        f"a patch of document {waiting[0].sample_id} does not fit into {config.elements} elements and "
                        f"{config.latents} latents",
                        "raise packing.elements",
                    )
                break
            added = 1 if head.offset else 0  # the mark that heads a rest is not an element of the document
            choice = Pick(0, head, head.offset + len(head) - added)
        else:
            break
        chosen.append(choice.piece)
        elements, latents = elements - len(choice.piece), latents - choice.piece.num_latents
        refill(choice)
        if choice.cut_at is not None:
            break
    return chosen


def pack(pieces: list[Piece], config: PackingConfig, num_sources: int = 0) -> Batch:
    """Pieces laid end to end, padded to the budgets. With `num_sources` each element has the number of its source.

    Raises:
        ValueError: they exceed a budget (which `fill` never lets happen).
    """
    import torch  # here, since `PackingConfig` above is read for --help, and torch takes seconds to load

    from model.network.batch import Batch

    elements, latents = sum(map(len, pieces)), sum(piece.num_latents for piece in pieces)
    if elements > config.elements or latents > config.latents:
        raise ValueError(f"{elements} elements and {latents} latents exceed {config.elements} and {config.latents}")
    padding = config.elements - elements
    firsts = np.cumsum([0] + [piece.num_latents for piece in pieces])

    def column(values: list[np.ndarray], pad: int | bool, dtype: type) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([*values, np.full(padding, pad)]).astype(dtype))

    return Batch(
        ids_N=column([piece.ids for piece in pieces], PAD, np.int64),
        is_unit_N=column([piece.is_unit for piece in pieces], False, np.bool_),
        latent_id_N=column(
            [piece.latent_id + first for piece, first in zip(pieces, firsts[:-1], strict=True)],
            min(latents, config.latents - 1),
            np.int64,
        ),
        closed_N=column([piece.closed for piece in pieces], True, np.bool_),
        doc_id_N=column([np.full(len(piece), i) for i, piece in enumerate(pieces)], -1, np.int64),
        loss_mask_N=column([piece.target for piece in pieces], False, np.bool_),
        num_latents=config.latents,
        sample_ids=tuple(piece.sample_id for piece in pieces),
        source_N=column([np.full(len(piece), piece.source) for piece in pieces], 0, np.int64) if num_sources else None,
        num_sources=num_sources,
    )
