"""The commits of one stage as columns: single files as workers create them, and parts into which the driver gathers them.

commits/<stage>/<fingerprint>/<unit>.json              one commit, created exclusively
commits/<stage>/<fingerprint>/part-<rows>-<hash>.parquet   many; written by the output's owner, who then removes the single files

A part holds what the files held, so a commit counts from the moment its file exists, and a kill between writing a part and
removing the files leaves a commit twice, which reads as once. Parts are merged by size: a run's work on them is O(n log n).
Parts are read some thousand rows at a time: a log of a million commits is a gigabyte in memory, and nobody needs it all at once.
"""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from jobs.store.commit_folders import folder_of
from jobs.store.commit_rows import SCHEMA, commit_of, rows_of, subset
from schemas.commit import Commit
from schemas.storage.files import Files, sha256

ABSORB = 2
"""A part at most this much larger than what is gathered is gathered with it."""
FULL = 1 << 18
"""Rows of a part that is not gathered into larger ones: gathering has such a part in memory."""
ROW_GROUP = 1 << 13
"""Commits that are read at a time: some MB."""
CHUNK = 1 << 15
"""Commits that are looked up at a time, wherever in the log they stand."""
UNIT = re.compile("[0-9a-f]{16}")


class CommitLog:
    """The commits of a stage. What is read of them is read by column, a group of rows at a time."""

    def __init__(self, store: Files, stage: str, fingerprint: str, names: Sequence[str]) -> None:
        """`names` are those in the stage's folder, as listed."""
        self.store, self.stage, self.fingerprint = store, stage, fingerprint
        self.folder = folder_of(stage, fingerprint)
        self.parts = [name for name in names if name.endswith(".parquet")]
        self.damaged: list[tuple[str, str]] = []
        """Files that hold no commit, and why; they count as not there."""
        self._open: dict[str, pq.ParquetFile | None] = {}
        self._singles: pa.Table = SCHEMA.empty_table()
        self._single_files: list[str] = []
        """In the order of the rows of `_singles`."""
        self._forget_caches()
        self.add_files([name for name in names if name.endswith(".json")])
        for name in self.parts:
            self._part(name)  # now, for what is open stays readable whoever gathers it

    def add_files(self, names: Sequence[str]) -> None:
        """Read the single commits of these names."""
        known = set(self._single_files)
        paths = [f"{self.folder}/{name}" for name in names if name not in known]
        found = []
        for path, data in zip(paths, self.store.read_many(paths), strict=True):
            if data is None:
                continue
            try:
                commit = Commit.model_validate_json(data)
            except ValidationError as error:
                self.damaged.append((path, "is empty" if not data else f"is no commit ({error.errors()[0]['msg']})"))
                continue
            if path != f"{self.folder}/{commit.partition}.json" or not UNIT.fullmatch(commit.partition):
                self.damaged.append((path, f"is the commit of something else ({commit.partition})"))
                continue
            found.append(commit)
            self._single_files.append(path.rpartition("/")[2])
        self._singles = pa.concat_tables([self._singles, rows_of(found)])
        self._forget_caches()

    def add(self, commits: Sequence[Commit]) -> None:
        """Take note of single commits that workers report to have created."""
        known = set(self._single_files)
        new = [commit for commit in commits if f"{commit.partition}.json" not in known]
        self._single_files += [f"{commit.partition}.json" for commit in new]
        self._singles = pa.concat_tables([self._singles, rows_of(new)])
        self._forget_caches()

    def _forget_caches(self) -> None:
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None
        self._group: tuple[tuple[str, int], pa.Table] | None = None

    # reading ----------------------------------------------------------------------------------------------------------

    def written(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows with these columns (default: all) and `unit`, some thousand at a time, numbered as `find` numbers them.

        Among them may be further copies of a commit, which `find` does not name.
        """
        schema = subset(columns)
        for name, group, _ in list(self._groups()):
            file = self._part(name) if name else None
            table = self._singles if file is None else file.read_row_group(group, schema.names, use_threads=False)
            yield table.select(schema.names).cast(schema)

    def select(self, rows: np.ndarray, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of these numbers with these columns and `unit`, in the order in which they were written."""
        first, rows = 0, np.sort(rows)
        for table in self.written(columns):
            begin, end = np.searchsorted(rows, [first, first + table.num_rows])
            if begin < end:
                yield table if end - begin == table.num_rows else table.take(pa.array(rows[begin:end] - first))
            first += table.num_rows

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All commits, each once, with these columns and `unit`, in the order in which they were written."""
        yield subset(columns).empty_table()
        yield from self.select(self._index()[1], columns)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All commits in one table: for logs that are known to be small."""
        return pa.concat_tables(self.batches(columns))

    def take(self, rows: np.ndarray, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of these numbers with these columns and `unit`, in the order of `rows`."""
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            order = np.argsort(chunk, kind="stable")
            wanted, pieces, first = chunk[order], [], 0
            for name, group, count in self._groups():
                begin, end = np.searchsorted(wanted, [first, first + count])
                if begin < end:
                    pieces.append(self._read_group(name, group, columns).take(pa.array(wanted[begin:end] - first)))
                first += count
            inverse = np.empty_like(order)
            inverse[order] = np.arange(len(order))
            yield pa.concat_tables(pieces).take(pa.array(inverse))

    def __len__(self) -> int:
        return len(self._index()[0])

    @property
    def units(self) -> np.ndarray:
        """S16 [n]: the names of what is committed, sorted."""
        names: np.ndarray = np.frombuffer(self._index()[0].astype(">u8").tobytes().hex().encode(), "S16")
        return names

    def find(self, units: np.ndarray) -> np.ndarray:
        """int64 [n]: in which row of the log each of these units (S16 [n]) stands, -1 where it is not committed."""
        keys, rows = self._index()
        if not len(keys):
            return np.full(len(units), -1, np.int64)
        wanted = keys_of(units)
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found: np.ndarray = np.where(keys[place] == wanted, rows[place], -1)
        return found

    def commits(self, units: Sequence[str] | np.ndarray | None = None) -> Iterator[Commit]:
        """Commits as objects, all or those of these units, in the order of the units."""
        rows = np.sort(self._index()[1]) if units is None else self.find(np.asarray(units, "S16"))
        return self.commits_in(rows[rows >= 0])

    def commits_in(self, rows: np.ndarray) -> Iterator[Commit]:
        """The commits in the rows of these numbers, in their order."""
        for table in self.take(rows):
            for batch in table.to_batches(1 << 10):
                yield from (commit_of(row, self.stage, self.fingerprint) for row in batch.to_pylist())

    def _groups(self) -> Iterator[tuple[str, int, int]]:
        """(part, group of rows in it, rows) of all parts, then the single commits as a part without a name."""
        for name in self.parts:
            if (file := self._part(name)) is not None:
                for group in range(file.num_row_groups):
                    yield name, group, file.metadata.row_group(group).num_rows
        yield "", 0, self._singles.num_rows

    def _read_group(self, name: str, group: int, columns: Sequence[str] | None) -> pa.Table:
        """A group of rows. Of whole rows the last group is kept, for those who ask for one commit after the other."""
        file = self._part(name) if name else None
        if file is None:
            return self._singles.select(subset(columns).names)
        if columns is not None:
            return file.read_row_group(group, subset(columns).names, use_threads=False).cast(subset(columns))
        if self._group is None or self._group[0] != (name, group):
            self._group = (name, group), file.read_row_group(group, SCHEMA.names, use_threads=False).cast(SCHEMA)
        return self._group[1]

    def _part(self, name: str) -> pq.ParquetFile | None:
        """An open part; None for one that is damaged or gone."""
        if name not in self._open:
            try:
                self._open[name] = self._open_part(name)
            except FileNotFoundError:  # gathered since it was listed: see `while_it_stands`
                self._open[name] = None
            except (pa.ArrowException, ValueError) as error:
                self.damaged.append((f"{self.folder}/{name}", f"cannot be read ({error})"))
                self._open[name] = None
        return self._open[name]

    def _open_part(self, name: str) -> pq.ParquetFile:
        """The part, if it has the bytes that its name promises; of a store elsewhere a local copy, so that it is asked once."""
        relative = f"{self.folder}/{name}"
        with tempfile.NamedTemporaryFile() as copy:
            path = self.store.path(relative)
            if not self.store.is_local:
                copy.write(self.store.read_bytes(relative))
                copy.flush()
                path = copy.name  # what is open lives on without its name
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if not name.endswith(f"-{digest[:16]}.parquet"):
                raise ValueError("its bytes are not those of its name")
            return pq.ParquetFile(pa.OSFile(path), pre_buffer=False)

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """(uint64 [n] keys in order, int64 [n] the row where each stands first)."""
        if self._sorted is None:
            keys = np.concatenate([_keys(table) for table in self.written(["unit"])])
            self._sorted = np.unique(keys, return_index=True)
        return self._sorted

    # by the owner of the output alone -----------------------------------------------------------------------------------

    def gather(self, at_least: int = 1) -> None:
        """Put the single files into a part, once there are so many."""
        if len(self._single_files) < at_least:
            return
        absorbed, rows = [], self._singles.num_rows
        for name in sorted(self.parts, key=rows_in_part):
            if rows_in_part(name) > min(ABSORB * rows, FULL):
                break
            if self._part(name) is not None:
                absorbed.append(name)
                rows += rows_in_part(name)
        files, before = self._single_files, self.parts
        self.parts = absorbed  # `batches` now gives what the new part is to hold
        self._forget_caches()
        new = self._write_part(self.batches())
        self.parts = [*(name for name in before if name not in absorbed), new]
        self._singles, self._single_files = SCHEMA.empty_table(), []
        self._remove([name for name in [*absorbed, *files] if name != new])

    def drop(self, units: Sequence[str] | np.ndarray) -> None:
        """Forget the commits of these units."""
        if not len(units):
            return
        gone = np.sort(keys_of(np.asarray(units, "S16")))
        old: list[str] = []
        new: list[str] = []
        for name in self.parts:
            if (file := self._part(name)) is None or not is_among(
                _keys(file.read(["unit"], use_threads=False)), gone
            ).any():
                continue
            groups = (file.read_row_group(group, use_threads=False) for group in range(file.num_row_groups))
            kept = [table.filter(pa.array(~is_among(_keys(table), gone))) for table in groups]
            old.append(name)
            if any(table.num_rows for table in kept):
                new.append(self._write_part(kept))
        self.parts = [name for name in self.parts if name not in old] + new
        goes = is_among(_keys(self._singles), gone)
        old += [name for name, away in zip(self._single_files, goes, strict=True) if away]
        self._single_files = [name for name, away in zip(self._single_files, goes, strict=True) if not away]
        self._singles = self._singles.filter(pa.array(~goes))
        self._remove([name for name in old if name not in new])

    def set_damaged_aside(self) -> list[str]:
        """Move what holds no commit out of the way; a sentence for each."""
        said = [self.store.set_aside(path, why) for path, why in self.damaged]
        gone = {path.rpartition("/")[2] for path, _ in self.damaged}
        self.parts = [name for name in self.parts if name not in gone]
        self.damaged = []
        self._forget_caches()
        return said

    def _remove(self, names: Sequence[str]) -> None:
        self._forget_caches()
        for name in names:
            self._open.pop(name, None)
        self.store.remove_all([f"{self.folder}/{name}" for name in names])

    def _write_part(self, tables: Iterable[pa.Table]) -> str:
        buffer, rows = io.BytesIO(), 0
        with pq.ParquetWriter(buffer, SCHEMA, compression="zstd") as writer:
            for table in _regrouped(tables):
                writer.write_table(table, row_group_size=ROW_GROUP)
                rows += table.num_rows
        data = buffer.getvalue()
        name = f"part-{rows}-{sha256(data)[:16]}.parquet"
        self.store.write_bytes(f"{self.folder}/{name}", data)
        return name


def rows_in_part(name: str) -> int:
    """How many commits a part holds, by its name."""
    return int(name.split("-")[1])


def keys_of(units: np.ndarray) -> np.ndarray:
    """uint64 [n]: names of units (S16 [n], hex digits) as numbers, which sort and compare ten times as fast."""
    keys: np.ndarray = np.frombuffer(bytes.fromhex(units.tobytes().decode()), ">u8").astype(np.uint64)
    return keys


def _keys(table: pa.Table) -> np.ndarray:
    return keys_of(np.asarray(table.column("unit").to_numpy(), "S16"))


def is_among(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """bool [n]: whether each of these is among the sorted `known`."""
    if not len(known):
        return np.zeros(len(keys), bool)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    among: np.ndarray = known[place] == keys
    return among


def _regrouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ROW_GROUP, so that parts which are gathered again and again do not fall into small groups."""
    waiting: list[Any] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        while rows >= ROW_GROUP:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, ROW_GROUP)
            waiting, rows = [whole.slice(ROW_GROUP)], rows - ROW_GROUP
    if rows:
        yield pa.concat_tables(waiting)
