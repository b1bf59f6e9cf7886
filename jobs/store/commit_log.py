"""The commits of one stage as columns: single files as workers create them, and parts into which the driver gathers them.

commits/<stage>/<fingerprint>/<unit>.json              one commit, created exclusively
commits/<stage>/<fingerprint>/part-<rows>-<hash>.parquet   many; written by the output's owner, who then removes the single files

A part holds what the files held, so a commit counts from the moment its file exists, and a kill between writing a part and
removing the files leaves a commit twice, which reads as once. Parts are merged by size: a run's work on them is O(n log n).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from schemas.commit import Commit, Output
from schemas.storage.files import Files, sha256

COUNTS = ("rows_in", "rows_out", "rows_rejected", "samples_in", "samples_out", "samples_rejected", "taken_over")
JSONS = ("inputs", "rejects_by_code", "sums", "provenance")
FILE = ("path", "sha256", "bytes", "rows")
SCHEMA = pa.schema(
    [("unit", pa.string()), *((name, pa.int64()) for name in COUNTS), ("seconds_busy", pa.float64())]
    + [(name, pa.string()) for name in JSONS]
    + [
        (prefix + name, pa.int64() if name in ("bytes", "rows") else pa.string())
        for prefix in ("", "rejects_")
        for name in FILE
    ]
    + [("member_ids", pa.list_(pa.string())), ("member_keys", pa.list_(pa.string()))]
)
ABSORB = 2
"""A part at most this much larger than what is gathered is gathered with it."""
ROW_GROUP = 1 << 16


def folder_of(stage: str, fingerprint: str) -> str:
    """Where a stage's commits lie."""
    return f"commits/{stage}/{fingerprint[:16]}"


def list_commits(store: Files) -> dict[str, list[str]]:
    """Folder -> names of files in it, for every stage and fingerprint there is: one listing."""
    found: dict[str, list[str]] = {}
    for path in store.find("commits"):
        folder, _, name = path.rpartition("/")
        found.setdefault(folder, []).append(name)
    return found


class CommitLog:
    """The commits of a stage. What is read of them is read by column."""

    def __init__(self, store: Files, stage: str, fingerprint: str, names: Sequence[str]) -> None:
        """`names` are those in the stage's folder, as listed."""
        self.store, self.stage, self.fingerprint = store, stage, fingerprint
        self.folder = folder_of(stage, fingerprint)
        self.parts = [name for name in names if name.endswith(".parquet")]
        self.damaged: list[tuple[str, str]] = []
        """Files that hold no commit, and why; they count as not there."""
        self._singles: pa.Table = SCHEMA.empty_table()
        self._single_files: list[str] = []
        self._forget_caches()
        self.add_files([name for name in names if name.endswith(".json")])

    def add_files(self, names: Sequence[str]) -> None:
        """Read the single commits of these names."""
        paths = [f"{self.folder}/{name}" for name in names if name not in set(self._single_files)]
        found = []
        for path, data in zip(paths, self.store.read_many(paths), strict=True):
            if data is None:
                continue
            try:
                found.append(Commit.model_validate_json(data))
            except ValidationError as error:
                self.damaged.append((path, "is empty" if not data else f"is no commit ({error.errors()[0]['msg']})"))
                continue
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
        self._whole: pa.Table | None = None
        self._index: dict[str, int] | None = None
        self._units: pa.Array | None = None

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All commits, each once, with these columns (default: all) and `unit`."""
        wanted = None if columns is None else list(dict.fromkeys(["unit", *columns]))
        tables = [self._read_part(name, wanted) for name in self.parts]
        tables.append(self._singles if wanted is None else self._singles.select(wanted))
        table = pa.concat_tables(tables)
        if len(tables) > 1 and table.num_rows:
            units = table.column("unit")
            if len(pc.unique(units)) < len(units):
                _, first = np.unique(units.to_numpy(zero_copy_only=False).astype(str), return_index=True)
                table = table.take(pa.array(np.sort(first)))
        return table

    def _read_part(self, name: str, columns: list[str] | None) -> pa.Table:
        try:
            source: Any = pa.BufferReader(self.store.read_bytes(f"{self.folder}/{name}"))
            if self.store.is_local:
                source = pa.memory_map(self.store.path(f"{self.folder}/{name}"))
            with pq.ParquetFile(source, pre_buffer=False) as file:
                return file.read(columns, use_threads=False).cast(_subset(columns))
        except (pa.ArrowException, FileNotFoundError) as error:
            self.damaged.append((f"{self.folder}/{name}", f"cannot be read ({error})"))
            return _subset(columns).empty_table()

    @property
    def units(self) -> pa.Array:
        """The names of what is committed, as a string array."""
        if self._units is None:
            self._units = self.read(["unit"]).column("unit").combine_chunks()
        return self._units

    def commits(self, units: Sequence[str] | None = None) -> Iterator[Commit]:
        """Commits as objects, all or those of these units, in the order of the units."""
        if self._whole is None:
            self._whole = self.read()
        table = self._whole
        if units is None:
            yield from (self._commit(row) for batch in table.to_batches(1 << 12) for row in batch.to_pylist())
            return
        if self._index is None:
            self._index = {name: number for number, name in enumerate(table.column("unit").to_pylist())}
        numbers = [self._index[unit] for unit in units if unit in self._index]
        yield from (self._commit(row) for row in table.take(pa.array(numbers, pa.int64())).to_pylist())

    def _commit(self, row: dict[str, Any]) -> Commit:
        name = "shard" if self.stage == "shards" else self.stage
        outputs = {name: Output(**{part: row[part] for part in FILE})}
        if row["rejects_path"] is not None:
            outputs["rejects"] = Output(**{part: row[f"rejects_{part}"] for part in FILE})
        return Commit(
            stage=self.stage,
            fingerprint=self.fingerprint,
            partition=row["unit"],
            members=dict(zip(row["member_ids"], row["member_keys"], strict=True)),
            outputs=outputs,
            seconds_busy=row["seconds_busy"],
            **{part: row[part] for part in COUNTS},
            **{part: json.loads(row[part]) for part in JSONS},
        )

    # by the owner of the output alone -----------------------------------------------------------------------------------

    def gather(self, at_least: int = 1) -> None:
        """Put the single files into a part, once there are so many."""
        if len(self._single_files) < at_least:
            return
        absorbed, rows = [], self._singles.num_rows
        for name in sorted(self.parts, key=rows_in_part):
            if rows_in_part(name) > ABSORB * rows:
                break
            absorbed.append(name)
            rows += rows_in_part(name)
        files = self._single_files
        kept = [name for name in self.parts if name not in absorbed]
        self.parts = absorbed  # `read` now gives what the new part is to hold
        table = self.read()
        self.parts = [*kept, self._write_part(table)]
        self._singles, self._single_files = SCHEMA.empty_table(), []
        self._forget_caches()
        gone = [name for name in [*absorbed, *files] if name not in self.parts]
        self.store.remove_all([f"{self.folder}/{name}" for name in gone])

    def drop(self, units: Sequence[str]) -> None:
        """Forget the commits of these units."""
        if not len(units):
            return
        table = self.read()
        old = [*self.parts, *self._single_files]
        kept = table.filter(pc.invert(pc.is_in(table.column("unit"), pa.array(units, pa.string()))))
        self.parts = [self._write_part(kept)] if kept.num_rows else []
        self._singles, self._single_files = SCHEMA.empty_table(), []
        self._forget_caches()
        self.store.remove_all([f"{self.folder}/{name}" for name in old if name not in self.parts])

    def set_damaged_aside(self) -> list[str]:
        """Move what holds no commit out of the way; a sentence for each."""
        said = [self.store.set_aside(path, why) for path, why in self.damaged]
        gone = {path.rpartition("/")[2] for path, _ in self.damaged}
        self.parts = [name for name in self.parts if name not in gone]
        self.damaged = []
        return said

    def _write_part(self, table: pa.Table) -> str:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP)
        name = f"part-{table.num_rows}-{sha256(buffer.getvalue())[:16]}.parquet"
        self.store.write_bytes(f"{self.folder}/{name}", buffer.getvalue())
        return name


def rows_in_part(name: str) -> int:
    """How many commits a part holds, by its name."""
    return int(name.split("-")[1])


def rows_of(commits: Sequence[Commit]) -> pa.Table:
    """Commits as rows of SCHEMA."""
    rows = []
    for commit in commits:
        row: dict[str, Any] = {"unit": commit.partition, "seconds_busy": commit.seconds_busy}
        row |= {name: getattr(commit, name) for name in COUNTS}
        row |= {name: json.dumps(getattr(commit, name), sort_keys=True) for name in JSONS}
        row |= {"member_ids": list(commit.members), "member_keys": list(commit.members.values())}
        for name, output in commit.outputs.items():
            prefix = "rejects_" if name == "rejects" else ""
            row |= {prefix + part: getattr(output, part) for part in FILE}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _subset(columns: Sequence[str] | None) -> pa.Schema:
    return SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
