"""Bring published centroids (.npy, flat FAISS index, scikit-learn k-means in joblib or pickle) into the pipeline's format.

    python jobs/import_centroids.py km500.bin models/km500 --sha256 03cc04... --config configs/mhubert-25hz-km500.yaml

Nothing in the file is executed. With --config the centroids are bound to that spec's encoder: using them with another
encoder is then an error instead of noise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pipeline.codebook.published import import_centroids
from pipeline.encode.base import build_encoder
from schemas.cards import hash_file
from schemas.config import ConfigError, load_config
from schemas.spec import PipelineSpec


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 on success, 2 with one sentence when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the published file")
    parser.add_argument("folder", type=Path, help="where to write centroids.npy and card.json")
    parser.add_argument("--name", help="the codebook's name on its card (default: the file's name)")
    parser.add_argument("--sha256", help="refuse a file with another hash")
    parser.add_argument("--licence", help="noted on the card")
    parser.add_argument("--config", type=Path, help="a pipeline spec whose encoder the centroids are for")
    options = parser.parse_args(arguments)
    try:
        card = import_centroids(options.source, options.folder, options.name or options.source.stem, _notes(options))
    except ConfigError as error:
        print(f"import_centroids: {error}", file=sys.stderr)
        return 2
    print(f"{card.facts['num_units']} units of {card.facts['dim']} dimensions -> {options.folder} ({card.card_id})")
    return 0


def _notes(options: argparse.Namespace) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    if options.sha256:
        found = hash_file(options.source) if options.source.is_file() else "no such file"
        if found != options.sha256.lower():
            raise ConfigError(
                f"{options.source} has sha256 {found}, not {options.sha256}: it is another or a damaged file"
            )
    if options.licence:
        notes["licence"] = options.licence
    if options.config:
        notes["encoder"] = build_encoder(load_config(PipelineSpec, options.config).stages.units.encoder).card().card_id
    return notes


if __name__ == "__main__":
    sys.exit(main())
