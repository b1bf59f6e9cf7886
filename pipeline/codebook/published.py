"""Published centroids, in the formats they are published in, as the folder that the units stage reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.codebook.folder import kmeans_card, write_centroids
from pipeline.codebook.unpickle import read_cluster_centers
from schemas.cards import Card, hash_file
from schemas.config import ConfigError

FAISS_FLAT = (b"IxF2", b"IxFI", b"IxFl")
"""The first bytes of FAISS's flat indices: L2, inner product, and the old name of L2."""


def read_published(path: str | Path) -> tuple[np.ndarray, str]:
    """Centroids float32 [K, D] and the name of the format, told by the file's first bytes and not by its suffix.

    Raises:
        ConfigError: missing, none of .npy, a flat FAISS index, a scikit-learn k-means (joblib or pickle), or refused.
    """
    try:
        with open(path, "rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if magic.startswith(b"\x93NUMPY"):
        return _from_npy(path), "npy"
    if magic[:4] in FAISS_FLAT:
        return _from_faiss(path), "faiss"
    if magic[:1] == b"I":
        raise ConfigError(
            f"{path} is a FAISS index of type {magic[:4].decode()!r}; centroids are in a flat one (IndexFlatL2)"
        )
    return read_cluster_centers(path), "scikit-learn"


def import_centroids(source: str | Path, folder: str | Path, name: str, notes: dict[str, Any]) -> Card:
    """Write the centroids of a published file as a folder and return their card, which names the file's sha256.

    Raises:
        ConfigError: what `read_published` raises, or values that cannot be centroids.
    """
    centroids, form = read_published(source)
    card = kmeans_card(name, centroids, {**notes, "imported_from": form, "source_sha256": hash_file(source)})
    try:
        write_centroids(folder, centroids, card)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error
    return card


def _from_npy(path: str | Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ConfigError(f"{path} must hold floats [K, D], found {array.dtype} {list(array.shape)}")
    return np.ascontiguousarray(array, np.float32)


def _from_faiss(path: str | Path) -> np.ndarray:
    import faiss

    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise ConfigError(f"FAISS cannot read {path}: {error}") from error
    if index.ntotal == 0:
        raise ConfigError(f"{path} is an empty FAISS index")
    return np.array(index.reconstruct_n(0, index.ntotal), np.float32)
