"""Bring published centroids (.npy, flat FAISS index, scikit-learn k-means in joblib or pickle) into the pipeline's format.

    python jobs/import_centroids.py km500.bin models/km500 --sha256 03cc04... --config configs/mhubert-25hz-km500.yaml

Nothing in the file is executed. With --config the centroids are bound to that spec's encoder: using them with another
encoder is then an error instead of noise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipeline.encode.base import build_encoder
from schemas.cards import hash_file
from schemas.commands.cli import Parser, command
from schemas.config import ConfigError, load_config
from schemas.spec import PipelineSpec


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Bring published centroids into a folder of ours, checked against their hash."""
    parser = Parser(__doc__)
    parser.add_argument("source", type=Path, help="the published file")
    parser.add_argument("folder", help="where to write centroids.npy and card.json: a path or an fsspec URL")
    parser.add_argument("--name", help="the codebook's name on its card (default: the file's name)")
    parser.add_argument("--sha256", help="refuse a file with another hash")
    parser.add_argument("--license", help="noted on the card")
    parser.add_argument("--config", type=Path, help="a pipeline spec whose encoder the centroids are for")
    given = parser.parse_args(arguments)
    from pipeline.codebook.published import import_centroids  # here, since numba takes a second to load

    card = import_centroids(given.source, given.folder, given.name or given.source.stem, _notes(given))
    print(f"{card.facts['num_units']} units of {card.facts['dim']} dimensions -> {given.folder} ({card.card_id})")
    return 0


def _notes(given: argparse.Namespace) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    if given.sha256:
        found = hash_file(given.source) if given.source.is_file() else "no such file"
        if found != given.sha256.lower():
            raise ConfigError(f"{given.source} has sha256 {found}, not {given.sha256}: it is another or a damaged file")
    if given.license:
        notes["license"] = given.license
    if given.config:
        notes["encoder"] = build_encoder(load_config(PipelineSpec, given.config).stages.units.encoder).card().card_id
    return notes


if __name__ == "__main__":
    sys.exit(main())
