"""The folder that holds centroids: centroids.npy and the card that says what they are."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from schemas.cards import Card
from schemas.config import ConfigError, parse_config
from schemas.storage.files import Files


def kmeans_card(name: str, centroids: np.ndarray, notes: dict[str, Any]) -> Card:
    """The card of a codebook: its bytes are its identity. `notes["encoder"]` is the id of the card of the encoder it is for."""
    digest = hashlib.sha256(np.ascontiguousarray(centroids, "<f4").tobytes()).hexdigest()
    facts = {"centroids_sha256": digest, "num_units": int(centroids.shape[0]), "dim": int(centroids.shape[1])}
    return Card(kind="kmeans", name=name, facts=facts, notes=notes)


def write_centroids(folder: str | Path, centroids: np.ndarray, card: Card) -> None:
    """Write centroids.npy, then card.json, each whole or not at all: a card means that the folder is complete.

    `folder` is a path or any fsspec URL, as everywhere in this module.
    """
    from pipeline.codebook.assign import (
        Quantiser,  # here, since numba takes a second to load and readers need none of it
    )

    Quantiser(centroids)  # refuses what could not be read back
    files, buffer = Files(str(folder)), io.BytesIO()
    np.save(buffer, np.ascontiguousarray(centroids, "<f4"), allow_pickle=False)
    text = json.dumps(card.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    for name, content in (("centroids.npy", buffer.getvalue()), ("card.json", text.encode())):
        files.write_bytes(name, content)


def _read(folder: str | Path, name: str) -> bytes:
    return Files(str(folder)).read_bytes(name)


def has_centroids(folder: str | Path) -> bool:
    """Whether a complete folder of centroids is there."""
    return Files(str(folder)).exists("card.json")


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
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if centroids.dtype != np.float32 or centroids.ndim != 2:
        raise ConfigError(f"{path} must hold float32 [K, D], found {centroids.dtype} {list(centroids.shape)}")
    if kmeans_card(card.name, centroids, card.notes).facts != card.facts:
        raise ConfigError(f"{path} does not hold the centroids that card.json describes: fit or import them again")
    return centroids, card
