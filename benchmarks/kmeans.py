"""Centroids: assignment against the bare float32 matrix product of the same size, fitting against bare FAISS.

768-wide features (HuBERT base), 500 units; the same BLAS and the same number of threads on both sides. Our assignment
returns units that no batch can change; the product alone returns nothing usable.
"""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks.harness import Measurement, fastest_of, main
from pipeline.codebook.assign import Quantiser
from pipeline.codebook.fit import fit_kmeans
from schemas.spec import KMeansSpec

UNITS, WIDTH = 500, 768
ASSIGNED, FITTED = 40_000, 20_000


def run() -> list[Measurement]:
    generator = np.random.default_rng(0)
    centroids = generator.standard_normal((UNITS, WIDTH), dtype=np.float32)
    features = centroids[generator.integers(0, UNITS, ASSIGNED)]
    features += 0.7 * generator.standard_normal((ASSIGNED, WIDTH), dtype=np.float32)
    return [*assignment_rows(features, centroids), *fitting_rows(generator)]


def assignment_rows(features: np.ndarray, centroids: np.ndarray) -> list[Measurement]:
    quantiser, transposed = Quantiser(centroids), np.ascontiguousarray(centroids.T)
    index = faiss.IndexFlatL2(WIDTH)
    index.add(centroids)
    ours, product, search = fastest_of(
        [lambda: quantiser.assign(features), lambda: features @ transposed, lambda: index.search(features, 1)],
        rounds=15,
    )
    agree = float((quantiser.assign(features) == index.search(features, 1)[1][:, 0]).mean())
    name = f"assign {ASSIGNED:,} frames"
    return [
        Measurement(name=name, value=ours * 1000, unit="ms", rival="bare float32 product", rival_value=product * 1000,
            goal="within 10 %", holds=ours <= 1.10 * product),
        Measurement(name=name, value=ours * 1000, unit="ms", rival="FAISS IndexFlatL2", rival_value=search * 1000),
        Measurement(name="frames with FAISS's unit", value=100 * agree, unit="%"),
    ]  # fmt: skip


def fitting_rows(generator: np.random.Generator) -> list[Measurement]:
    """The default 25 iterations on all points; bare FAISS is told the same parameters."""
    features = generator.standard_normal((FITTED, WIDTH), dtype=np.float32)
    spec = KMeansSpec(num_units=UNITS, seed=1)

    def bare() -> np.ndarray:
        kmeans = faiss.Kmeans(
            WIDTH,
            UNITS,
            niter=spec.iterations,
            seed=1,
            max_points_per_centroid=spec.max_points_per_centroid,
            min_points_per_centroid=1,
        )
        kmeans.train(features)
        return np.array(kmeans.centroids)

    same = bool((fit_kmeans(features, spec).centroids == bare()).all())
    ours, theirs = fastest_of([lambda: fit_kmeans(features, spec), bare], rounds=5)
    return [
        Measurement(name=f"fit {UNITS} units on {FITTED:,} frames, counts and curve included", value=ours, unit="s",
            rival="bare FAISS", rival_value=theirs, goal="within 5 %", holds=ours <= 1.05 * theirs),
        Measurement(name="centroids equal to bare FAISS's", value=100.0 * same, unit="%", goal="100", holds=same),
    ]  # fmt: skip


if __name__ == "__main__":
    main(run, __doc__)
