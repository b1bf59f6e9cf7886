"""N-gram embeddings: the last units of a span and nothing else decide what is added."""

from __future__ import annotations

import numpy as np
import torch

from model.network.layers.ngrams import NgramEmbedding, UnitHistory, hashed, span_age

SIZES, BUCKETS = (1, 3), 50


def test_ages_count_the_units_of_a_span_within_its_document() -> None:
    unit = torch.tensor([False, True, True, False, True, True, True, False])
    doc = torch.tensor([0, 0, 0, 0, 0, 0, 1, -1])
    assert span_age(unit, doc).tolist() == [0, 1, 2, 0, 1, 2, 1, 0]


def test_a_unit_gets_the_vectors_of_its_own_n_grams() -> None:
    """By hand: each row's table entries, found by hashing tuples; fewer than n units add nothing of that size."""
    module = NgramEmbedding(SIZES, BUCKETS, 4)
    rng = np.random.default_rng(0)
    ids = torch.as_tensor(rng.integers(10, 20, 30))
    unit = torch.as_tensor(rng.random(30) < 0.8)
    added = module(ids, unit, torch.zeros(30, dtype=torch.long))
    for j in range(30):
        start = j + 1
        while start > 0 and unit[start - 1]:
            start -= 1
        expected = torch.zeros(4)
        for i, size in enumerate(SIZES):
            if unit[j] and j + 1 - start >= size:
                row = int(hashed(ids[j + 1 - size : j + 1][None])[0]) % BUCKETS + i * BUCKETS
                expected = expected + module.embedding.weight[row]
        torch.testing.assert_close(added[j], expected)


def test_hashes_use_the_buckets_evenly_and_depend_on_order() -> None:
    grams = torch.cartesian_prod(*[torch.arange(30)] * 3)
    counts = torch.bincount(hashed(grams) % 64, minlength=64).double()
    assert float((counts - counts.mean()).abs().max() / counts.mean()) < 0.25
    assert (hashed(grams) != hashed(grams.flip(1)))[(grams != grams.flip(1)).any(1)].all()


def test_the_history_of_generation_is_the_window_of_training() -> None:
    rng = np.random.default_rng(1)
    ids, unit = rng.integers(5, 25, 40), rng.random(40) < 0.7
    module = NgramEmbedding(SIZES, BUCKETS, 4)
    packed = module(torch.as_tensor(ids), torch.as_tensor(unit), torch.zeros(40, dtype=torch.long))
    history, row = UnitHistory.empty(2, 3), np.asarray([1])
    for j in range(40):
        history.observe(row, ids[j : j + 1], unit[j : j + 1])
        stepped = module.look_up(torch.as_tensor(history.ids_BM[row]), torch.as_tensor(history.age_B[row]))
        torch.testing.assert_close(stepped[0], packed[j])
