"""A document: what the loader makes of one sample, before patching and packing; and the same over BPE units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from model.network.vocabulary import Vocabulary
from schemas.models.unit_bpe import UnitBpe


@dataclass(frozen=True, kw_only=True)
class Document:
    """One training document, [BOS] ... [EOS] included. All arrays have one entry per element (length n).

    What is known of alignment rides along, so that every patch policy can be applied to the same document.
    """

    ids: np.ndarray
    """int32 [n], joint vocabulary."""
    is_unit: np.ndarray
    """bool [n]: a speech unit. Only units are patched; every other element is a patch of its own."""
    patch_start: np.ndarray
    """bool [n]: an aligned patch (word, silence or filler) of the shard begins at this unit; False where not a unit."""
    patch_kind: np.ndarray
    """int8 [n]: kind of the aligned patch the unit lies in (0 word, 1 silence, 2 filler); -1 where not a unit."""
    token_start: np.ndarray
    """bool [n]: the time of a text token of the spoken word begins at this unit (BPE-aligned patching); all False where
    the shard has no character times."""
    target: np.ndarray
    """bool [n]: the element counts in the loss. The first element (BOS) never does."""
    sample_id: str
    """Shard key (and span) for messages about this document."""


def bpe_vocabulary(vocabulary: Vocabulary, bpe: UnitBpe) -> Vocabulary:
    """The vocabulary of a model that reads `to_bpe` documents."""
    return vocabulary.with_updates(num_units=bpe.size)


def to_bpe(document: Document, vocabulary: Vocabulary, bpe: UnitBpe) -> Document:
    """The document over BPE units, the paper's second baseline, for the plain transformer or for LST: each speech span is encoded
    anew; everything else stays.

    A token begins an aligned patch (or a text token's time) where any of its units does, and takes the kind of its first unit.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], document.is_unit.view(np.int8), [0]])))
    starts, ids, at = [], [], 0
    for first, stop in edges.reshape(-1, 2).tolist():
        tokens = bpe.encode(document.ids[first:stop] - vocabulary.unit_offset)
        starts += [np.arange(at, first), first + np.cumsum(bpe.lengths[tokens]) - bpe.lengths[tokens]]
        ids += [document.ids[at:first], tokens + vocabulary.unit_offset]
        at = stop
    starts.append(np.arange(at, len(document.ids)))
    ids.append(document.ids[at:])
    first_element = np.concatenate(starts)
    begins = np.logical_or.reduceat
    return replace(
        document,
        ids=np.concatenate(ids).astype(np.int32),
        is_unit=document.is_unit[first_element],
        patch_start=begins(document.patch_start, first_element),
        patch_kind=document.patch_kind[first_element],
        token_start=begins(document.token_start, first_element),
        target=document.target[first_element],
    )
