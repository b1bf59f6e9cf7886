"""From features to units: the folder that holds centroids, fitting them, and assignment at the speed of a matrix product."""

from __future__ import annotations

import numpy as np

from schemas.storage.compiled import compiled

ASSIGN_ROWS = 1_024
"""Rows per matrix product: enough for its full speed, and few enough that rows and scores are still in the cache when the best is
looked for (3 % less time than 4,096)."""
CHUNK = 32
"""Scores whose maximum is kept as one number while looking for the best."""


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


@compiled(fastmath={"nnan", "nsz", "reassoc", "contract"})
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
