"""Fitted boundaries: what is counted, that nothing after a unit is looked at, and that known words are found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError
from schemas.models.boundaries import BoundaryTable, Kind, context_keys, cut, fit, longest_context, with_mean_length

UNITS = 12


def spoken(rng: np.random.Generator, words: list[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` words in a row, and where each ends."""
    said = [words[i] for i in rng.integers(0, len(words), count)]
    ends = np.zeros(sum(map(len, said)), dtype=bool)
    ends[np.cumsum([len(word) for word in said]) - 1] = True
    return np.concatenate(said), ends


def table_of(kind: Kind, seed: int = 0, order: int = 4, min_count: int = 2) -> tuple[BoundaryTable, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    words = [rng.integers(0, UNITS, rng.integers(2, 6)) for _ in range(8)]
    spans, ends = zip(*(spoken(rng, words, 12) for _ in range(60)), strict=True)
    return fit(kind, spans, ends, num_units=UNITS, order=order, min_count=min_count), list(spans)


@pytest.mark.parametrize("kind", ["words", "entropy"])
@given(seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_no_score_looks_ahead(kind: Kind, seed: int) -> None:
    """Whatever follows a unit, its score and all ends up to it stay."""
    table, spans = table_of(kind)
    table = table.with_rule(float(np.median(table.score(spans[0]))), 1, 6)
    rng = np.random.default_rng(seed)
    units = rng.integers(0, UNITS, 30)
    at = int(rng.integers(0, 30))
    other = units.copy()
    other[at + 1 :] = rng.integers(0, UNITS, 29 - at)
    assert (table.score(units)[: at + 1] == table.score(other)[: at + 1]).all()
    assert (table.ends(units)[: at + 1] == table.ends(other)[: at + 1]).all()
    assert (table.ends(units[: at + 1]) == table.ends(units)[: at + 1]).all()


def test_word_scores_are_the_shares_counted_by_hand() -> None:
    """Of 0 1 | 2 1: after 1 a word ended once in two, after (0, 1) always; with two made-up ones of the shorter context."""
    spans, ends = [np.asarray([0, 1, 2, 1])], [np.asarray([False, True, False, False])]
    table = fit("words", spans, ends, num_units=3, order=2, min_count=1)
    base = 1 / 4
    after_1 = (1 + 2 * base) / (2 + 2)
    expected = [(0 + 2 * base) / 3, (1 + 2 * after_1) / 3, (0 + 2 * (2 * base) / 3) / 3, (0 + 2 * after_1) / 3]
    assert table.score(spans[0]) == pytest.approx(expected)


def test_entropies_are_those_of_the_smoothed_counts() -> None:
    """After 0 came 1 twice and 2 once; smoothed by the counts of all units, add one."""
    table = fit("entropy", [np.asarray([0, 1, 0, 2, 0, 1])], [], num_units=3, order=1, min_count=1)
    everywhere = np.asarray([3 + 1, 2 + 1, 1 + 1]) / 9
    after_0 = (np.asarray([0, 2, 1]) + 2 * everywhere) / (3 + 2)
    assert table.score(np.asarray([0]))[0] == pytest.approx(-(after_0 * np.log2(after_0)).sum(), rel=1e-5)


def test_known_words_are_found_again() -> None:
    """Words of a small lexicon, in sentences that were not seen: nearly every end is met exactly, and none is needed to know."""
    rng = np.random.default_rng(3)
    words = [
        np.asarray([a, b, *rng.integers(0, UNITS, rng.integers(0, 4))])
        for a, b in rng.permuted(np.arange(UNITS)).reshape(-1, 2)
    ]
    seen = [spoken(rng, words, 15) for _ in range(300)]
    table = fit("words", [u for u, _ in seen], [e for _, e in seen], num_units=UNITS, order=6, min_count=2)
    mean = sum(len(u) for u, _ in seen) / sum(int(e.sum()) for _, e in seen)
    table = with_mean_length(table, [u for u, _ in seen], mean, 1, 20)
    fresh = [spoken(rng, words, 15) for _ in range(50)]
    right = sum(int((table.ends(units) == ends).sum()) for units, ends in fresh)
    assert right / sum(len(units) for units, _ in fresh) > 0.95


@pytest.mark.parametrize("kind", ["words", "entropy"])
@pytest.mark.parametrize("mean", [2.5, 4.0])
def test_patches_have_the_length_asked_for(kind: Kind, mean: float) -> None:
    table, spans = table_of(kind)
    cut_so = with_mean_length(table, spans, mean, 2, 8)
    patches = sum(int(cut_so.ends(units)[:-1].sum()) + 1 for units in spans)
    assert sum(map(len, spans)) / patches == pytest.approx(mean, rel=0.15)


@given(st.lists(st.integers(0, 40), unique=True), st.integers(1, 5), st.integers(0, 5), st.integers(0, 41))
def test_cuts_keep_their_bounds_and_take_the_first_mark(marks: list[int], least: int, more: int, length: int) -> None:
    ends = cut(np.asarray(sorted(m for m in marks if m < length), dtype=np.int64), length, least, least + more)
    start = 0
    for j in range(length):
        size = j - start + 1
        assert ends[j] == (size == least + more or (size >= least and j in marks))
        start = j + 1 if ends[j] else start


def test_contexts_are_numbers_without_collisions() -> None:
    units = np.random.default_rng(0).integers(0, 3, 200)
    keys = context_keys(units, 4, 3)
    assert len(set(keys.tolist())) == len({tuple(units[i : i + 4]) for i in range(197)})
    assert 500 ** longest_context(500) < 2**63 <= 500 ** (longest_context(500) + 1)


def test_a_file_gives_the_same_table(tmp_path: Path) -> None:
    table, spans = table_of("words")
    table = with_mean_length(table, spans, 3.0, 1, 9)
    table.save(tmp_path / "boundaries.npz")
    again = BoundaryTable.load(tmp_path / "boundaries.npz")
    assert all((again.ends(units) == table.ends(units)).all() for units in spans)
    assert (again.threshold, again.min_size, again.max_size, again.kind) == (table.threshold, 1, 9, "words")


def test_files_of_something_else_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no boundaries at"):
        BoundaryTable.load(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("not this")
    with pytest.raises(ConfigError, match="holds no boundaries"):
        BoundaryTable.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ConfigError, match="holds no boundaries"):
        BoundaryTable.load(tmp_path / "other.npz")
    whole = (tmp_path / "other.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="holds no boundaries"):
        BoundaryTable.load(tmp_path / "cut.npz")
    table, _ = table_of("words")
    with pytest.raises(ConfigError, match="fitted over 12"):
        table.score(np.asarray([12]))
