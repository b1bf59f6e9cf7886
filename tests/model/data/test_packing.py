"""Packing: no budget is exceeded, every target is predicted exactly once, and little is left empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.document import Document
from model.data.draws import generator
from model.data.packing import PackingConfig, Pick, Piece, cut, fill, pack, rest_of, whole
from model.data.patching import AlignedConfig, StaticConfig, assign_patches
from model.network.vocabulary import BOS, EOS, SPEECH_MARK, TEXT_MARK

POLICIES = st.sampled_from(
    [StaticConfig(policy="static", size=4), AlignedConfig(policy="aligned", silence="separate", max_size=12)]
)


def document(number: int, rng: np.random.Generator) -> Document:
    """Spans of either modality; ids count up from 100, so that an element can be found again."""
    ids, unit = [BOS], [False]
    for _ in range(int(rng.integers(1, 5))):
        speech, length = bool(rng.random() < 0.5), int(rng.integers(0, 60))
        ids += [SPEECH_MARK if speech else TEXT_MARK, *range(100 + len(ids), 100 + len(ids) + length)]
        unit += [False] + [speech] * length
    ids.append(EOS)
    unit.append(False)
    is_unit = np.asarray(unit)
    target = np.ones(len(ids), dtype=bool)
    target[0] = False
    return Document(
        ids=np.asarray(ids, dtype=np.int32),
        is_unit=is_unit,
        patch_start=is_unit & ((rng.random(len(ids)) < 0.3) | ~np.concatenate([[False], is_unit[:-1]])),
        patch_kind=np.where(is_unit, 0, -1).astype(np.int8),
        token_start=np.zeros(len(ids), dtype=bool),
        target=target,
        sample_id=f"d{number}",
    )


def pack_all(seed: int, policy: object, config: PackingConfig, count: int) -> tuple[list[Piece], list[list[Piece]]]:
    """`count` documents and the batches they fill; the documents that follow are only filler."""
    rng = generator(seed)
    documents = [document(i, rng) for i in range(count + 200)]
    pieces = [whole(d, *assign_patches(policy, d, 0.0, rng)) for d in documents]
    pending = [(i, piece) for i, piece in enumerate(pieces)]
    batches: list[list[Piece]] = []

    def taken(choice: Pick) -> None:
        number, _ = pending.pop(choice.place)
        if choice.cut_at is not None:
            pending.insert(choice.place, (number, rest_of(pieces[number], choice.cut_at)))

    while any(number < count for number, _ in pending):
        batches.append(fill(config, lambda place: pending[place][1], taken))
    return pieces[:count], batches


CONFIGS = st.builds(
    PackingConfig,
    elements=st.integers(64, 300),
    latents=st.integers(40, 300),
    split=st.booleans(),
    lookahead=st.integers(1, 6),
    min_piece=st.integers(2, 16),
)


@given(seed=st.integers(0, 500), policy=POLICIES, config=CONFIGS)
@settings(deadline=None, max_examples=60)
def test_every_target_is_in_one_batch_and_no_budget_is_exceeded(
    seed: int, policy: object, config: PackingConfig
) -> None:
    documents, batches = pack_all(seed, policy, config, 12)
    targets: dict[str, list[int]] = {}
    for pieces in batches:
        batch = pack(pieces, config).check()
        assert len(batch.ids_N) == config.elements
        assert int(batch.latent_id_N.max()) < config.latents
        for piece in pieces:
            targets.setdefault(piece.sample_id, []).extend(piece.ids[piece.target].tolist())
    for piece in documents:
        assert targets[piece.sample_id] == piece.ids[piece.target].tolist(), "a target is lost, doubled or out of order"


@given(seed=st.integers(0, 500), policy=POLICIES, config=CONFIGS)
@settings(deadline=None, max_examples=40)
def test_documents_are_cut_only_where_that_is_allowed_and_between_patches(
    seed: int, policy: object, config: PackingConfig
) -> None:
    """A cut never falls inside a patch, leaves `min_piece` on both sides, and the rest opens with the mark in force."""
    documents, batches = pack_all(seed, policy, config, 12)
    whole_of = {piece.sample_id: piece for piece in documents}
    for pieces in batches:
        for piece in pieces:
            original = whole_of.get(piece.sample_id)
            if original is None or len(piece) == len(original):
                continue
            longer_than_a_batch = len(original) > config.elements or original.num_latents > config.latents
            assert config.split or longer_than_a_batch
            assert len(piece) >= config.min_piece
            if piece.offset:
                before = original.ids[: piece.offset]
                marks = before[(before == TEXT_MARK) | (before == SPEECH_MARK)]
                assert piece.ids[0] == marks[-1]
                assert not piece.target[0]
                assert original.latent_id[piece.offset] == original.latent_id[piece.offset - 1] + 1


def test_a_document_waits_for_at_most_lookahead_batches() -> None:
    """The oldest opens each batch, so nothing starves, however well others fit."""
    config = PackingConfig(elements=300, latents=300, split=False, lookahead=5)
    _, batches = pack_all(3, StaticConfig(policy="static", size=4), config, 60)
    seen: dict[int, int] = {}
    for number, pieces in enumerate(batches):
        for piece in pieces:
            seen.setdefault(int(piece.sample_id[1:]), number)
    order = [seen[i] for i in range(60)]
    assert all(max(order[: i + 1]) - order[i] <= 5 for i in range(60))


@pytest.mark.parametrize("split,lookahead", [(True, 1), (False, 24)])
def test_the_binding_budget_is_filled(split: bool, lookahead: int) -> None:
    """At sizes like the demo's (documents of some 120 elements in batches of 1024): 97 % and more, either way."""
    config = PackingConfig(elements=1024, latents=704, split=split, lookahead=lookahead)
    _, batches = pack_all(1, StaticConfig(policy="static", size=4), config, 150)
    fills = [
        max(sum(map(len, pieces)) / config.elements, sum(p.num_latents for p in pieces) / config.latents)
        for pieces in batches[:-1]
    ]
    assert np.mean(fills) >= 0.97, np.mean(fills)


def test_what_cannot_be_packed_is_said() -> None:
    """A patch that is longer than a batch: a sentence with the document's name, not an endless loop."""
    ids = np.asarray([BOS, SPEECH_MARK, *range(100, 400), EOS], dtype=np.int32)
    latent_id = np.asarray([0, 1, *[2] * 300, 3])
    long = Piece(
        ids=ids, is_unit=latent_id == 2, latent_id=latent_id, closed=latent_id != 2, target=ids > BOS, sample_id="long"
    )
    config = PackingConfig(elements=64, latents=64)
    with pytest.raises(ValueError, match="a patch of document long does not fit into 64 elements"):
        fill(config, lambda place: long, lambda choice: None)
    assert cut(long, 64, 64, 16) is None


def test_the_smallest_piece_must_fit() -> None:
    with pytest.raises(ValueError, match="min_piece 40 must be at most half of both budgets"):
        PackingConfig(elements=64, latents=64, min_piece=40)
