"""Batches of made-up documents, for measuring: text and speech in turns, in patches, until both budgets are full."""

from __future__ import annotations

import numpy as np

from model.data.document import Document
from model.data.packing import PackingConfig, Piece, pack, whole
from model.data.patching import StaticConfig, assign_patches
from model.network.batch import Batch
from model.network.vocabulary import BOS, EOS, SPEECH_MARK, TEXT_MARK, Vocabulary


def synthetic_batch(
    vocabulary: Vocabulary,
    elements: int,
    latents: int,
    *,
    speech: float = 0.25,
    length: tuple[int, int] = (200, 1600),
    patch: int = 4,
    seed: int = 0,
) -> Batch:
    """Documents of `length` elements, of which about `speech` are units; at a quarter they make 0.81 latents each."""
    rng, policy = np.random.default_rng(seed), StaticConfig(policy="static", size=patch)
    pieces: list[Piece] = []
    while True:
        left = elements - sum(map(len, pieces)), latents - sum(piece.num_latents for piece in pieces)
        size = min(int(rng.integers(*length, endpoint=True)), *left)
        if size < 8:
            break
        document = _document(vocabulary, size, speech, rng)
        pieces.append(whole(document, *assign_patches(policy, document, 0.0, rng)))
    return pack(pieces, PackingConfig(elements=elements, latents=latents, min_piece=2))


def _document(vocabulary: Vocabulary, size: int, speech: float, rng: np.random.Generator) -> Document:
    ids = [BOS]
    while len(ids) < size - 1:
        spoken, count = rng.random() < speech, int(rng.integers(10, 60))
        first, stop = (
            (vocabulary.unit_offset, vocabulary.size) if spoken else (vocabulary.text_offset, vocabulary.unit_offset)
        )
        ids += [SPEECH_MARK if spoken else TEXT_MARK, *rng.integers(first, stop, count).tolist()]
    array = np.asarray([*ids[: size - 1], EOS], dtype=np.int32)
    is_unit = array >= vocabulary.unit_offset
    opens = is_unit & ~np.concatenate([[False], is_unit[:-1]])
    return Document(
        ids=array,
        is_unit=is_unit,
        patch_start=opens,
        patch_kind=np.where(is_unit, 0, -1).astype(np.int8),
        token_start=opens,
        target=np.arange(len(array)) > 0,
        sample_id="synthetic",
    )
