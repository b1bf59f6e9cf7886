"""Fitting centroids by FAISS k-means: which frames are sampled, and every parameter that FAISS is told."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.codebook.assign import Quantiser
from schemas.config import ConfigError
from schemas.spec import KMeansSpec

NEAR_DEAD_SHARE = 0.02
"""A centroid with less than this share of the mean count is reported as near-dead."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """Centroids and how well they fit."""

    centroids: np.ndarray
    """float32 [K, D]"""
    objective: list[float]
    """Sum of squared distances at each iteration of the best redo."""
    counts: np.ndarray
    """int64 [K]: training frames nearest to each centroid."""
    dead: list[int]
    """Centroids nearest to no training frame."""
    near_dead: list[int]
    """Centroids with some, but fewer than 2 % of the mean."""
    parameters: dict[str, Any]
    """Everything FAISS was told."""


def fit_kmeans(features: np.ndarray, spec: KMeansSpec) -> FitResult:
    """Centroids of float32 [N, D] by FAISS, with nothing left to FAISS's defaults (it would keep 256 points per centroid).

    Raises:
        ConfigError: fewer distinct frames than units.
    """
    import faiss

    if len(features) < spec.num_units:
        raise ConfigError(
            f"{len(features)} frames cannot make {spec.num_units} units: lower kmeans.num_units or add audio "
            "(a few hundred frames per unit are wanted)"
        )
    if (distinct := _count_distinct(features, spec.num_units)) < spec.num_units:
        raise ConfigError(
            f"the {len(features)} frames hold {distinct} distinct ones, which cannot make {spec.num_units} units: the audio "
            "is mostly copies or digital silence; add other audio or lower kmeans.num_units"
        )
    parameters = faiss_parameters(spec)
    kmeans = faiss.Kmeans(features.shape[1], spec.num_units, gpu=False, **parameters)
    kmeans.train(np.ascontiguousarray(features, np.float32))
    centroids = np.array(kmeans.centroids, np.float32)
    assert kmeans.obj is not None
    # A pass of its own, one beside the 25 of fitting: FAISS keeps no counts of its last assignment, and dead units must be known.
    counts = np.bincount(Quantiser(centroids).assign(features), minlength=spec.num_units)
    rare = NEAR_DEAD_SHARE * counts.mean()
    return FitResult(
        centroids=centroids,
        objective=_last_descent([float(value) for value in kmeans.obj]),
        counts=counts,
        dead=[int(unit) for unit in np.flatnonzero(counts == 0)],
        near_dead=[int(unit) for unit in np.flatnonzero((counts > 0) & (counts < rare))],
        parameters=parameters,
    )


def _count_distinct(features: np.ndarray, enough: int) -> int:
    """How many rows differ from each other; counting ends at `enough`, which speech has within its first frames."""
    seen: set[bytes] = set()
    for row in np.ascontiguousarray(features):
        seen.add(row.tobytes())
        if len(seen) >= enough:
            break
    return len(seen)


def _last_descent(curve: list[float]) -> list[float]:
    """The curve of the best redo: FAISS appends one redo to the next, and the last that it keeps is the best."""
    start = 0
    for index in range(1, len(curve)):
        if curve[index] > curve[index - 1] * (1 + 1e-5):
            start = index
    return curve[start:]


def faiss_parameters(spec: KMeansSpec) -> dict[str, Any]:
    """Every field of FAISS's ClusteringParameters, named; those that the installed FAISS does not have yet are left out."""
    import faiss

    parameters: dict[str, Any] = {
        "niter": spec.iterations,
        "nredo": spec.redo,
        "seed": spec.seed,
        "max_points_per_centroid": spec.max_points_per_centroid,
        "min_points_per_centroid": 1,  # only a warning in FAISS; dead centroids are counted instead
        "spherical": False,
        "int_centroids": False,
        "update_index": False,
        "frozen_centroids": False,
        "check_input_data_for_NaNs": True,
        "decode_block_size": 32_768,
        "use_faster_subsampling": False,
        "init_method": 0,  # uniform random frames
        "afkmc2_chain_length": 50,  # not read by that method
        "early_stop_threshold": 0.0,
        "use_super_kmeans": False,
        "verbose": False,
    }
    known = faiss.ClusteringParameters()
    return {name: value for name, value in parameters.items() if hasattr(known, name)}


def choose_frames(num_frames: int, recording_id: str, limit: int, seed: int) -> np.ndarray:
    """Which frames of a recording train the centroids: int64, sorted, at most `limit`, each frame as likely as the others.

    Depends on its arguments alone: not on the order of recordings, nor on how many there are.
    """
    if num_frames <= limit:
        return np.arange(num_frames)
    digest = hashlib.sha256(f"{seed}:{recording_id}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
    chosen: np.ndarray = np.sort(generator.choice(num_frames, size=limit, replace=False, shuffle=False))
    return chosen


def sample_frames(features: np.ndarray, recording_id: str, limit: int, seed: int) -> np.ndarray:
    """The rows of a recording's float32 [T, D] that `choose_frames` names: each recording is a stratum of its own."""
    return np.asarray(features[choose_frames(len(features), recording_id, limit, seed)])
