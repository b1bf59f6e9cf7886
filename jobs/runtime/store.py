"""The store: content-addressed Parquet files and the commits that name them. Readers follow commits and never glob.

tables/<table>/<partition>-<hash>.parquet     written whole, then renamed; never changed
commits/<stage>/<fingerprint>/<partition>.json  created exclusively: the first commit wins, a late one has the same bytes
shards/<shard>-<hash>.tar, shards/index.json
cards/<card id>.json
"""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.places import local_or_url
from schemas.arrow import Row, RowType, to_rows, to_table
from schemas.cards import Card
from schemas.commit import Commit, Output
from schemas.config import ConfigError
from schemas.errors import DataError


class CorruptFileError(DataError):
    """A file of the store is not what its commit says."""


class Store:
    """Tables, commits, cards and shards under one root: a local folder or any fsspec URL."""

    def __init__(self, root: str):
        self.root = root.rstrip("/")

    @cached_property
    def _located(self) -> tuple[Any, str]:
        filesystem, path = fsspec.core.url_to_fs(self.root)
        return filesystem, path

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.root,)

    @property
    def fs(self) -> Any:
        """The fsspec filesystem."""
        return self._located[0]

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine, where a rename is atomic."""
        return "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def path(self, relative: str) -> str:
        """A path in the store as the filesystem wants it."""
        return f"{self._located[1]}/{relative}"

    def check_writable(self) -> None:
        """Raises ConfigError if a file cannot be written and removed under the root."""
        probe = f"control/.probe-{uuid.uuid4().hex}"
        try:
            self.write_bytes(probe, b"")
            self.fs.rm_file(self.path(probe))
        except OSError as error:
            raise ConfigError(f"cannot write to {self.root}: {error}; choose another `output`") from error

    # bytes ------------------------------------------------------------------------------------------------------------

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Write a file whole: to a temporary name, flushed to disk, then renamed."""
        target = self.path(relative)
        self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        if not self.is_local:
            self.fs.pipe_file(target, data)  # object stores publish an object whole or not at all
            return
        temporary = self._write_temporary(target, data)
        os.replace(temporary, target)

    def create_exclusively(self, relative: str, data: bytes) -> bool:
        """Write a file whole unless it exists; False if somebody else came first."""
        target = self.path(relative)
        self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        if not self.is_local:
            try:
                self.fs.pipe_file(target, data, mode="create")
            except FileExistsError:
                return False
            return True
        temporary = self._write_temporary(target, data)
        try:
            os.link(temporary, target)  # unlike a rename, a link fails if the name is taken
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    @staticmethod
    def _write_temporary(target: str, data: bytes) -> str:
        temporary = f"{target}.{uuid.uuid4().hex}.tmp"
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return temporary

    def read_bytes(self, relative: str) -> bytes:
        """A file's bytes.

        Raises:
            FileNotFoundError: it is not there.
        """
        data: bytes = self.fs.cat_file(self.path(relative))
        return data

    def exists(self, relative: str) -> bool:
        """Whether a file is there."""
        return bool(self.fs.exists(self.path(relative)))

    def remove(self, relative: str) -> None:
        """Remove a file if it is there."""
        if self.exists(relative):
            self.fs.rm_file(self.path(relative))

    def names(self, folder: str) -> set[str]:
        """The names in a folder; empty if there is none."""
        try:
            entries = self.fs.ls(self.path(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return set()
        return {str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries}

    # tables -----------------------------------------------------------------------------------------------------------

    def write_table(self, row: type[RowType], rows: Sequence[RowType], partition: str, fingerprint: str) -> Output:
        """Rows as a Parquet file named by its content; equal rows give equal bytes."""
        table = to_table(row, rows)
        facts = {
            "table": row.TABLE,
            "version": str(row.VERSION),
            "fingerprint": fingerprint,
            "partition": partition,
            "rows": str(table.num_rows),
        }
        table = table.replace_schema_metadata(facts)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", store_schema=True)
        return self.write_named(f"tables/{row.TABLE}", partition, ".parquet", buffer.getvalue(), table.num_rows)

    def write_named(self, folder: str, stem: str, suffix: str, data: bytes, rows: int) -> Output:
        """Write bytes under a name that holds their hash."""
        digest = hashlib.sha256(data).hexdigest()
        relative = f"{folder}/{stem}-{digest[:16]}{suffix}"
        if not self.exists(relative):
            self.write_bytes(relative, data)
        return Output(path=relative, sha256=digest, bytes=len(data), rows=rows)

    def read_table(self, row: type[RowType], output: Output) -> list[RowType]:
        """The rows of a committed table.

        Raises:
            CorruptFileError: the file's hash is not the commit's.
        """
        return to_rows(row, self.read_arrow(output))

    def read_arrow(self, output: Output) -> pa.Table:
        """A committed table as Arrow, its metadata stripped, its hash checked."""
        data = self.read_bytes(output.path)
        if hashlib.sha256(data).hexdigest() != output.sha256:
            raise CorruptFileError(
                f"{self.root}/{output.path} has changed since it was committed; delete it and run the job again"
            )
        # One thread, and none of Arrow's pools: at exit these now and then abort the process (seen in 1 of 25 runs). A
        # partition is small, and workers are what runs side by side.
        with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
            return file.read(use_threads=False).replace_schema_metadata(None)

    # commits ----------------------------------------------------------------------------------------------------------

    @staticmethod
    def commit_path(stage: str, fingerprint: str, partition: str) -> str:
        """Where the commit of a stage's partition lies."""
        return f"commits/{stage}/{fingerprint[:16]}/{partition}.json"

    def committed(self, stage: str, fingerprint: str) -> set[str]:
        """The partitions that the stage has committed."""
        names = self.names(f"commits/{stage}/{fingerprint[:16]}")
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def publish(self, commit: Commit) -> bool:
        """Create the commit; False if another worker was first, which is as good."""
        text = commit.model_dump_json(indent=1) + "\n"
        return self.create_exclusively(
            self.commit_path(commit.stage, commit.fingerprint, commit.partition), text.encode("utf-8")
        )

    def read_commit(self, stage: str, fingerprint: str, partition: str) -> Commit:
        """A commit.

        Raises:
            FileNotFoundError: there is none.
        """
        return Commit.model_validate_json(self.read_bytes(self.commit_path(stage, fingerprint, partition)))

    def write_card(self, card: Card) -> None:
        """Keep a card where tables that name its id can find it."""
        self.create_exclusively(f"cards/{card.card_id}.json", (card.model_dump_json(indent=1) + "\n").encode("utf-8"))


__all__ = ["CorruptFileError", "Row", "Store", "local_or_url"]
