"""Centroids: assignment that does not depend on the batch, a folder that proves its contents, a fit with nothing implied."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codebook.assign import Quantiser
from pipeline.codebook.fit import choose_frames, faiss_parameters, fit_kmeans, sample_frames
from pipeline.codebook.folder import kmeans_card, load_centroids, write_centroids
from schemas.config import ConfigError
from schemas.spec import KMeansSpec


def nearest_float64(features, centroids):
    distance = ((features[:, None].astype(np.float64) - centroids[None].astype(np.float64)) ** 2).sum(axis=2)
    return distance.argmin(axis=1)


def blobs(seed, rows, units, dim, spread=1.0):
    generator = np.random.default_rng(seed)
    centroids = generator.standard_normal((units, dim)).astype(np.float32) * 3
    features = centroids[generator.integers(0, units, rows)] + spread * generator.standard_normal((rows, dim))
    return features.astype(np.float32), centroids


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(0, 80), units=st.integers(1, 40), dim=st.integers(1, 24))
def test_assignment_is_the_nearest_centroid(seed, rows, units, dim):
    features, centroids = blobs(seed, rows, units, dim)
    np.testing.assert_array_equal(Quantiser(centroids).assign(features), nearest_float64(features, centroids))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), start=st.integers(0, 90), size=st.integers(1, 40), offset=st.floats(0, 1e4))
def test_a_row_gets_the_same_unit_alone_and_in_any_batch(seed, start, size, offset):
    """Near ties included: half of the rows lie midway between two centroids, and a large offset costs float32 its digits."""
    features, centroids = blobs(seed, 130, 60, 48)
    features[::2] = (centroids[np.arange(65) % 60] + centroids[(np.arange(65) + 7) % 60]) / 2
    features, centroids = features + np.float32(offset), centroids + np.float32(offset)
    quantiser = Quantiser(centroids)
    together = quantiser.assign(features)
    np.testing.assert_array_equal(quantiser.assign(features[start : start + size]), together[start : start + size])
    np.testing.assert_array_equal(
        [quantiser.assign(row[None])[0] for row in features[start : start + 5]], together[start : start + 5]
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), offset=st.floats(1e4, 3e4))
def test_float32_rounding_decides_nothing(seed, offset):
    """Far from the origin a float32 product has no digits left for the differences; the units are the true nearest anyway."""
    features, centroids = blobs(seed, 60, 40, 32)
    features, centroids = features + np.float32(offset), centroids + np.float32(offset)
    in_float32 = (features @ centroids.T - (centroids**2).sum(axis=1) / 2).argmax(axis=1)
    truth = nearest_float64(features, centroids)
    assert (in_float32 != truth).any()
    np.testing.assert_array_equal(Quantiser(centroids).assign(features), truth)


def test_exact_ties_go_to_the_lowest_id():
    features, centroids = blobs(3, 50, 20, 64)
    doubled = np.concatenate([centroids, centroids, centroids])
    np.testing.assert_array_equal(Quantiser(doubled).assign(features), Quantiser(centroids).assign(features))


@pytest.mark.parametrize(
    "centroids, message",
    [
        (np.zeros((3, 4)), "float32"),
        (np.zeros((0, 4), np.float32), "float32"),
        (np.full((3, 4), np.nan, np.float32), "NaN"),
        (np.zeros((65_536, 1), np.float32), "uint16"),
    ],
)
def test_centroids_that_cannot_work_are_refused(centroids, message):
    with pytest.raises(ValueError, match=message):
        Quantiser(centroids)


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match="5 dimensions"):
        Quantiser(np.zeros((2, 5), np.float32)).assign(np.zeros((2, 4), np.float32))


def test_every_faiss_parameter_is_named():
    """A new field of FAISS must become a decision of ours."""
    import faiss

    known = faiss.ClusteringParameters()
    fields = {name for name in dir(known) if not name.startswith("_")} - {"this", "thisown"}
    assert fields == set(faiss_parameters(KMeansSpec(num_units=2, seed=0)))


def test_fit_finds_separate_clusters_and_is_seeded():
    features, centres = blobs(1, 4_000, 3, 16, spread=0.05)
    spec = KMeansSpec(num_units=3, seed=5, redo=20)
    result = fit_kmeans(features, spec)
    assert 1 < len(result.objective) <= spec.iterations
    assert (np.diff(result.objective) < 1e-5 * result.objective[0]).all()
    assert result.counts.sum() == len(features)
    assert result.dead == []
    np.testing.assert_array_equal(fit_kmeans(features, spec).centroids, result.centroids)
    distance = np.linalg.norm(result.centroids[:, None] - centres[None], axis=2).min(axis=1)
    assert distance.max() < 0.2


def test_fit_equals_bare_faiss_with_the_same_parameters():
    import faiss

    features, _ = blobs(2, 3_000, 30, 8)
    spec = KMeansSpec(num_units=30, seed=9, iterations=7)
    bare = faiss.Kmeans(8, 30, niter=7, seed=9, max_points_per_centroid=4096, min_points_per_centroid=1)
    bare.train(features)
    np.testing.assert_array_equal(fit_kmeans(features, spec).centroids, bare.centroids)


def test_fit_reports_dead_centroids():
    """Three places cannot keep four centroids alive, though one of the frames differs from the others in a bit (-0)."""
    features = np.repeat(np.eye(3, dtype=np.float32), 50, axis=0)
    features[0, 1] = -0.0
    result = fit_kmeans(features, KMeansSpec(num_units=4, seed=0))
    assert len(result.dead) + int((result.counts > 0).sum()) == 4
    assert result.dead


def test_too_few_frames_is_a_sentence():
    with pytest.raises(ConfigError, match="3 frames cannot make 5 units"):
        fit_kmeans(np.zeros((3, 2), np.float32), KMeansSpec(num_units=5, seed=0))


def test_copies_of_few_frames_are_a_sentence():
    """Digital silence, or one sound again and again: counted by what differs, not by how much there is."""
    features = np.repeat(np.random.default_rng(0).normal(size=(10, 39)).astype(np.float32), 200, axis=0)
    with pytest.raises(ConfigError, match="2000 frames hold 10 distinct ones"):
        fit_kmeans(features, KMeansSpec(num_units=11, seed=0))


@settings(max_examples=50, deadline=None)
@given(total=st.integers(0, 500), limit=st.integers(1, 300), seed=st.integers(0, 99))
def test_frames_are_chosen_by_recording_alone(total, limit, seed):
    chosen = choose_frames(total, "abc", limit, seed)
    assert len(chosen) == min(total, limit)
    assert (np.diff(chosen) > 0).all()
    assert chosen.size == 0 or (chosen[0] >= 0 and chosen[-1] < total)
    np.testing.assert_array_equal(chosen, choose_frames(total, "abc", limit, seed))
    rows = np.arange(total, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(sample_frames(rows, "abc", limit, seed)[:, 0], chosen)


def test_choice_is_uniform_and_differs_by_recording_and_seed():
    counts = sum(np.bincount(choose_frames(100, f"r{index}", 10, 1), minlength=100) for index in range(2_000))
    assert counts.min() > 120  # 200 expected, standard deviation 13
    assert counts.max() < 290
    assert choose_frames(100, "a", 10, 1).tolist() != choose_frames(100, "b", 10, 1).tolist()
    assert choose_frames(100, "a", 10, 1).tolist() != choose_frames(100, "a", 10, 2).tolist()


def test_the_folder_round_trips_and_notices_other_centroids(tmp_path):
    _, centroids = blobs(0, 1, 7, 5)
    card = kmeans_card("test-km7", centroids, {"encoder": "encoder-x-1"})
    write_centroids(tmp_path / "km", centroids, card)
    read, read_card = load_centroids(tmp_path / "km")
    np.testing.assert_array_equal(read, centroids)
    assert read_card == card
    assert sorted(path.name for path in (tmp_path / "km").iterdir()) == ["card.json", "centroids.npy"]
    np.save(tmp_path / "km" / "centroids.npy", centroids + 1)
    with pytest.raises(ConfigError, match=r"does not hold the centroids that card\.json describes"):
        load_centroids(tmp_path / "km")


def test_a_folder_may_be_a_url():
    _, centroids = blobs(0, 1, 7, 5)
    write_centroids("memory://bucket/km", centroids, kmeans_card("x", centroids, {}))
    np.testing.assert_array_equal(load_centroids("memory://bucket/km")[0], centroids)
    with pytest.raises(ConfigError, match="no centroids in memory://bucket/other"):
        load_centroids("memory://bucket/other")


def test_a_missing_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match=r"jobs/fit_kmeans\.py"):
        load_centroids(tmp_path / "none")


def test_a_pickled_array_is_not_read(tmp_path):
    _, centroids = blobs(0, 1, 7, 5)
    write_centroids(tmp_path, centroids, kmeans_card("x", centroids, {}))
    np.save(tmp_path / "centroids.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match="cannot read"):
        load_centroids(tmp_path)
    assert json.loads((tmp_path / "card.json").read_text())["kind"] == "kmeans"


def test_an_empty_array_file_is_a_sentence(tmp_path):
    """As a full disk leaves it where a folder is copied."""
    _, centroids = blobs(0, 1, 7, 5)
    write_centroids(tmp_path, centroids, kmeans_card("x", centroids, {}))
    (tmp_path / "centroids.npy").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot read"):
        load_centroids(tmp_path)
