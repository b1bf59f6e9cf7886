"""From features to units: the folder that holds centroids, fitting them, and assignment at the speed of a matrix product."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numba
import numpy as np

from schemas.cards import Card
from schemas.config import ConfigError, parse_config
from schemas.spec import KMeansSpec

ASSIGN_ROWS = 1_024
"""Rows per matrix product: enough for its full speed, and few enough that rows and scores are still in the cache when the best is
looked for (3 % less time than 4,096)."""
CHUNK = 32
"""Scores whose maximum is kept as one number while looking for the best."""
NEAR_DEAD_SHARE = 0.02
"""A centroid with less than this share of the mean count is reported as near-dead."""


class Quantiser:
    """Nearest centroid by Euclidean distance.

    The matrix product runs in float32, whose rounding depends on the shape of the product and on the library. So every
    row whose best and second best lie closer than the rounding error bound is decided again in float64, one pair at a time:
    a frame gets the same unit alone or in a batch, on any number of threads. Exact ties go to the lowest id.
    """

    def __init__(self, centroids: np.ndarray):
        if centroids.ndim != 2 or centroids.dtype != np.float32 or len(centroids) == 0:
            raise ValueError(f"centroids must be float32 [K, D], found {centroids.dtype} {list(centroids.shape)}")
        if len(centroids) > 65_535:
            raise ValueError(f"{len(centroids)} centroids do not fit the uint16 of the units table (at most 65535)")
        if not np.isfinite(centroids).all():
            raise ValueError("centroids hold NaN or infinity: the fit or the file is broken")
        self.centroids = centroids
        self._transposed = np.ascontiguousarray(centroids.T)
        wide = centroids.astype(np.float64)
        self._half_norm_wide = np.einsum("kd,kd->k", wide, wide) / 2
        self._half_norm = self._half_norm_wide.astype(np.float32)
        # |fl(x.c - h) - (x.c - h)| <= (D + 2) u (|x| |c| + h), and two scores are compared.
        reach = float(np.sqrt(2 * self._half_norm_wide.max()))
        self._unit_error = 2 * (centroids.shape[1] + 2) * 2.0**-24
        self._reach, self._offset = reach, reach * reach / 2

    @property
    def num_units(self) -> int:
        return len(self.centroids)

    def assign(self, features: np.ndarray) -> np.ndarray:
        """The nearest centroid of each row of float32 [N, D]: uint16 [N].

        Raises:
            ValueError: the width is not that of the centroids.
        """
        num_units, dim = self.centroids.shape
        if features.ndim != 2 or features.shape[1] != dim:
            raise ValueError(f"features are {list(features.shape)} but the centroids have {dim} dimensions")
        rows = np.ascontiguousarray(features, np.float32)
        units = np.empty(len(rows), np.uint16)
        scores = np.empty((min(ASSIGN_ROWS, len(rows)), num_units), np.float32)
        for first in range(0, len(rows), ASSIGN_ROWS):
            block = rows[first : first + ASSIGN_ROWS]
            out = scores[: len(block)]
            np.matmul(block, self._transposed, out=out)
            units[first : first + len(block)] = self._decide(block, out)
        return units

    def _decide(self, block: np.ndarray, products: np.ndarray) -> np.ndarray:
        """The best unit per row of the products [B, K] with the centroids, near ties settled in float64."""
        best, floors = np.empty(len(block), np.int64), np.empty(len(block), np.float32)
        close = np.empty(len(block), np.bool_)
        limits = (np.float32(self._unit_error * self._reach), np.float32(self._unit_error * self._offset))
        _best_per_row(block, products, self._half_norm, *limits, best, floors, close)
        for row in np.flatnonzero(close):
            candidates = np.flatnonzero(products[row] - self._half_norm >= floors[row])
            best[row] = candidates[int(self._exact(block[row], candidates).argmax())]
        return best

    def _exact(self, row: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """float64 scores of one row; every candidate is summed in the same order, so equal centroids tie exactly."""
        products = self.centroids[candidates].astype(np.float64) * row.astype(np.float64)
        scores: np.ndarray = np.add.reduce(np.ascontiguousarray(products.T), axis=0) - self._half_norm_wide[candidates]
        return scores


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "reassoc", "contract"})
def _best_per_row(block, products, half_norm, per_norm, constant, best, floors, close):  # type: ignore[no-untyped-def]
    """Per row: the first unit of the highest score, the floor above which others are too close to call, and whether any is.

    One pass over the scores, in vector instructions, keeps the maximum of every CHUNK of them; what follows looks only into
    the chunks that reach the floor.
    """
    num_units = products.shape[1]
    peaks = np.empty((num_units + CHUNK - 1) // CHUNK, np.float32)
    for row in range(len(products)):
        scores = products[row]
        square = np.float32(0)
        for index in range(block.shape[1]):
            square += block[row, index] * block[row, index]
        peaks[-1] = -np.inf
        for chunk in range(num_units // CHUNK):
            first = chunk * CHUNK
            peak = scores[first] - half_norm[first]
            for offset in range(CHUNK):  # a constant count: unrolled
                peak = max(peak, scores[first + offset] - half_norm[first + offset])
            peaks[chunk] = peak
        for unit in range(num_units // CHUNK * CHUNK, num_units):
            peaks[-1] = max(peaks[-1], scores[unit] - half_norm[unit])
        top = peaks.max()
        floor = top - (np.sqrt(square) * per_norm + constant)
        winner, reaching = -1, 0
        for chunk in range(len(peaks)):
            if peaks[chunk] >= floor:
                for unit in range(chunk * CHUNK, min((chunk + 1) * CHUNK, num_units)):
                    score = scores[unit] - half_norm[unit]
                    reaching += score >= floor
                    if winner < 0 and score >= top:
                        winner = unit
        best[row], floors[row], close[row] = max(winner, 0), floor, reaching > 1


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
    parameters = faiss_parameters(spec)
    kmeans = faiss.Kmeans(features.shape[1], spec.num_units, gpu=False, **parameters)
    kmeans.train(np.ascontiguousarray(features, np.float32))
    centroids = np.array(kmeans.centroids, np.float32)
    assert kmeans.obj is not None
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


def kmeans_card(name: str, centroids: np.ndarray, notes: dict[str, Any]) -> Card:
    """The card of a codebook: its bytes are its identity. `notes["encoder"]` is the id of the card of the encoder it is for."""
    digest = hashlib.sha256(np.ascontiguousarray(centroids, "<f4").tobytes()).hexdigest()
    facts = {"centroids_sha256": digest, "num_units": int(centroids.shape[0]), "dim": int(centroids.shape[1])}
    return Card(kind="kmeans", name=name, facts=facts, notes=notes)


def write_centroids(folder: str | Path, centroids: np.ndarray, card: Card) -> None:
    """Write centroids.npy, then card.json, each under a temporary name first: a card means that the folder is complete.

    `folder` is a path or any fsspec URL, as everywhere in this module.
    """
    Quantiser(centroids)  # refuses what could not be read back
    files, path = fsspec.core.url_to_fs(str(folder))
    files.makedirs(path, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(centroids, "<f4"), allow_pickle=False)
    text = json.dumps(card.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    for name, content in (("centroids.npy", buffer.getvalue()), ("card.json", text.encode())):
        files.pipe_file(f"{path}/.{name}.tmp", content)
        files.mv(f"{path}/.{name}.tmp", f"{path}/{name}")


def _read(folder: str | Path, name: str) -> bytes:
    files, path = fsspec.core.url_to_fs(str(folder))
    content: bytes = files.cat_file(f"{path}/{name}")
    return content


def load_card(folder: str | Path) -> Card:
    """The card of a centroids folder.

    Raises:
        ConfigError: the folder or its card is missing or broken.
    """
    try:
        document = json.loads(_read(folder, "card.json"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"no centroids in {folder}: fit them with jobs/fit_kmeans.py, or bring published ones with jobs/import_centroids.py"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{folder}/card.json is not valid JSON: {error}") from error
    return parse_config(Card, document, origin=f"{folder}/card.json")


def load_centroids(folder: str | Path) -> tuple[np.ndarray, Card]:
    """Centroids float32 [K, D] and their card.

    Raises:
        ConfigError: something is missing, or the centroids are not those that the card describes.
    """
    card = load_card(folder)
    path = f"{folder}/centroids.npy"
    try:
        centroids = np.load(io.BytesIO(_read(folder, "centroids.npy")), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if centroids.dtype != np.float32 or centroids.ndim != 2:
        raise ConfigError(f"{path} must hold float32 [K, D], found {centroids.dtype} {list(centroids.shape)}")
    if kmeans_card(card.name, centroids, card.notes).facts != card.facts:
        raise ConfigError(f"{path} does not hold the centroids that card.json describes: fit or import them again")
    return centroids, card
