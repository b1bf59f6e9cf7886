"""Which commits stand: the files that they name are there, with the sizes that they state. Compared as numbers, not as names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.store.commit_log import CommitLog, keys_of
from jobs.store.store import Store
from schemas.commit import KINDS, SHARDS

NAMED = r"^[0-9a-f]{16}-[0-9a-f]{16}\.(parquet|tar)$"
"""A file that is named by its unit and its content."""
ODD = np.uint64(0x9E3779B97F4A7C15)
"""Spreads the unit's number over 64 bits before the content's is mixed in: as good as both side by side, at half the memory."""

Files = tuple[np.ndarray, np.ndarray]
"""(uint64 [n] keys of names, sorted; int64 [n] bytes) of the files in a folder."""


class Listings:
    """The content-named files of folders, each folder listed once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rejects: Files | None = None

    def of(self, folder: str) -> Files:
        """What a folder and its superseded twin hold; shards are never superseded."""
        if folder == "tables/rejects" and self._rejects is not None:
            return self._rejects
        keys, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for place in (folder,) if folder == KINDS[SHARDS].folder else (folder, f"superseded/{folder}"):
            for batch in self._store.listing(place).to_batches():
                batch = batch.filter(pc.match_substring_regex(batch.column("name"), NAMED))
                keys.append(keys_of_names(batch.column("name")))
                sizes.append(batch.column("bytes").to_numpy())
        every = np.concatenate(keys)
        order = np.argsort(every, kind="stable")
        files = every[order], np.concatenate(sizes)[order]
        if folder == "tables/rejects":  # of all stages, so asked for again, and few
            self._rejects = files
        return files


def standing(log: CommitLog, units: np.ndarray, listings: Listings, damaged: Callable[[str], None]) -> np.ndarray:
    """bool [units]: committed, and the files are there with the size that the commit states.

    `damaged` is told of files that have another size.
    """
    rows = log.find(units)
    folder = KINDS[log.stage].folder
    whole = np.ones(int(rows.max(initial=-1)) + 2, bool)
    whole[-1] = False  # for row -1: not committed
    for prefix, place in (("", folder), ("rejects_", "tables/rejects")):
        _check(log, prefix, np.unique(rows[rows >= 0]), listings.of(place), whole, damaged)
    standing: np.ndarray = whole[rows]
    return standing


def _check(
    log: CommitLog, prefix: str, rows: np.ndarray, files: Files, whole: np.ndarray, damaged: Callable[[str], None]
) -> None:
    """Mark in `whole` the rows whose file is not there as it should be."""
    keys, sizes = (np.append(column, column.dtype.type(0)) for column in files)
    first = 0
    for table in log.select(rows, [f"{prefix}path", f"{prefix}bytes"]):
        mine = rows[first : first + table.num_rows]
        first += table.num_rows
        named = np.asarray(pc.is_valid(table.column(f"{prefix}path")))
        table, mine = table.filter(pa.array(named)), mine[named]
        paths = table.column(f"{prefix}path")
        wanted = keys_of_names(pc.replace_substring_regex(paths, "^.*/", ""))
        place = np.minimum(np.searchsorted(files[0], wanted), len(files[0]))
        there = (place < len(files[0])) & (keys[place] == wanted)
        right = there & (sizes[place] == table.column(f"{prefix}bytes").to_numpy())
        whole[mine[~right]] = False
        for path in paths.filter(pa.array(there & ~right)).to_pylist():
            damaged(f"{log.store.root}/{path} does not have the size that its commit states")


def keys_of_names(names: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """uint64 [n] of names as NAMED has them."""
    unit, content = (
        keys_of(np.asarray(pc.utf8_slice_codeunits(names, start, start + 16).to_numpy(zero_copy_only=False), "S16"))
        for start in (0, 17)
    )
    keys: np.ndarray = (unit * ODD) ^ content
    return keys
