"""Documents over BPE units instead of units: the paper's second baseline, for the plain transformer or for LST."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from model.data.document import Document
from model.network.vocabulary import Vocabulary
from schemas.models.unit_bpe import UnitBpe


def bpe_vocabulary(vocabulary: Vocabulary, bpe: UnitBpe) -> Vocabulary:
    """The vocabulary of a model that reads `to_bpe` documents."""
    return vocabulary.with_updates(num_units=bpe.size)


def to_bpe(document: Document, vocabulary: Vocabulary, bpe: UnitBpe) -> Document:
    """The document with each speech span encoded anew; everything else stays.

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
