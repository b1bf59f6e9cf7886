"""Centroids on tiny-HuBERT features of the recipe's speech: `python -m recipes.tiny_models.kmeans 100 500`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import faiss
import numpy as np

from pipeline.codebook.fit import fit_kmeans
from pipeline.codebook.folder import kmeans_card, write_centroids
from pipeline.encode.hubert import HubertEncoder
from recipes.tiny_models.batches import load_corpus
from recipes.tiny_models.settings import UNIT_HOP, assets, one_thread
from recipes.tiny_models.targets import SHARES
from recipes.voices.settings import SEED
from schemas.commands.cli import Parser, command
from schemas.spec import HubertSpec, KMeansSpec

LAYER = 4
EVERY = 3
"""Every third utterance of the training speech is used."""


def encoder() -> HubertEncoder:
    """The shipped tiny HuBERT as the pipeline runs it."""
    spec = HubertSpec(model=str(assets() / "tiny-hubert"), layer=LAYER, hop=UNIT_HOP)
    opened = HubertEncoder(spec)
    opened.open()
    return opened


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("sizes", type=int, nargs="+")
    given = parser.parse_args(arguments)
    one_thread()
    faiss.omp_set_num_threads(1)
    hubert = encoder()
    items = load_corpus(SHARES).items[::EVERY]
    features = np.concatenate([hubert.encode(item.audio.astype(np.float32) / 32768) for item in items])
    for size in given.sizes:
        spec = KMeansSpec(num_units=size, seed=SEED, iterations=25, redo=1, max_points_per_centroid=4096)
        fit = fit_kmeans(features, spec)
        notes = {
            "encoder": hubert.card().card_id,
            "data": "the synthetic and public-domain speech of recipes/tiny_models",
            "license": "Apache-2.0",
            "frames": len(features),
            "faiss": fit.parameters,
            "objective_per_frame": round(fit.objective[-1] / len(features), 4),
            "dead": fit.dead,
            "near_dead": fit.near_dead,
        }
        folder = assets() / f"tiny-kmeans-{size}"
        card = kmeans_card(f"tiny-hubert-l{LAYER}-k{size}", fit.centroids, notes)
        write_centroids(folder, fit.centroids, card)
        print(f"{folder}: {len(features)} frames, {len(fit.dead)} dead, {len(fit.near_dead)} near dead", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
