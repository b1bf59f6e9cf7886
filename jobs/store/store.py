"""The store: content-addressed Parquet files and the commits that name them. Readers follow commits and never glob.

tables/<table>/<unit>-<hash>.parquet         written whole; never changed
commits/<stage>/<fingerprint>/...            see jobs/store/commit_log.py
shards/<unit>-<hash>.tar, shards/<index>.json
cards/<card id>.json
inventory/, specs/                           what was read and what was asked for (jobs/store/records.py)
superseded/                                  tables that no recorded spec needs now; taken over from, until gc --stale
control/                                     the lease of the run that writes
layout.json                                  which layout this is
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.store.commit_folders import folder_of
from schemas.arrow import Row, RowType, to_rows, to_table
from schemas.cards import Card
from schemas.commit import Commit, Output
from schemas.config import ConfigError, in_short
from schemas.errors import DataError, UserError
from schemas.storage.files import Files, sha256

LAYOUT = 2
"""2: partitions named by content. Layout 1 had them named by place, and no layout.json."""


class CorruptFileError(DataError):
    """A file of the store is not what its commit says; `path` is its name in the store."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[type[CorruptFileError], tuple[str, str]]:
        return CorruptFileError, (str(self), self.path)


class Store(Files):
    """Tables, commits and cards under one root: a local folder or any fsspec URL."""

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.root,)

    def check_layout(self) -> None:
        """Raises ConfigError if what is there was written in another layout."""
        try:
            layout = self.read_json("layout.json", "remove it; the next run states the layout anew")["layout"]
        except (FileNotFoundError, NotADirectoryError):
            if not self.exists("commits/inventory"):
                return
            layout = 1
        if layout != LAYOUT:
            raise ConfigError(
                f"{self.root} was written in layout {layout} of this project and this version reads layout {LAYOUT}: "
                f"choose another `output`, or remove that folder and run again (shards in it can still be trained on)"
            )

    def write_layout(self) -> None:
        """State the layout where it is not stated yet."""
        if not self.exists("layout.json"):
            self.create_exclusively("layout.json", json.dumps({"layout": LAYOUT}).encode())

    def read_json(self, relative: str, remedy: str) -> dict[str, Any]:
        """The mapping in a small file of the bookkeeping.

        Raises:
            FileNotFoundError: it is not there.
            DataError: it is empty or damaged; `remedy` says what then.
        """
        try:
            document = json.loads(self.read_bytes(relative))
        except UserError:  # some are ValueErrors too, and speak of the storage and not of the content
            raise
        except ValueError as error:
            raise DataError(f"{self.root}/{relative} is empty or damaged ({in_short(error)})", remedy) from error
        if not isinstance(document, dict):
            raise DataError(f"{self.root}/{relative} is damaged: it holds no mapping", remedy)
        return document

    # tables -----------------------------------------------------------------------------------------------------------

    def write_table(self, row: type[RowType], rows: Sequence[RowType], unit: str, fingerprint: str) -> Output:
        """Rows as a Parquet file named by its content; equal rows give equal bytes."""
        table = to_table(row, rows)
        facts = {
            "table": row.TABLE,
            "version": str(row.VERSION),
            "fingerprint": fingerprint,
            "partition": unit,
            "rows": str(table.num_rows),
        }
        table = table.replace_schema_metadata(facts)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", store_schema=True)
        return self.write_named(f"tables/{row.TABLE}", unit, ".parquet", buffer.getvalue(), table.num_rows)

    def write_named(self, folder: str, stem: str, suffix: str, data: bytes, rows: int) -> Output:
        """Write bytes under a name that holds their hash."""
        digest = sha256(data)
        relative = named(folder, stem, digest, suffix)
        self.write_bytes(relative, data)  # also over a damaged file of that name
        return Output(path=relative, sha256=digest, bytes=len(data), rows=rows)

    def read_table(self, row: type[RowType], output: Output) -> list[RowType]:
        """The rows of a committed table.

        Raises:
            CorruptFileError: the file's hash is not the commit's.
        """
        return to_rows(row, self.read_arrow(output.path, output.sha256))

    def read_arrow(self, path: str, digest: str) -> pa.Table:
        """A committed table as Arrow, its metadata stripped, its hash checked."""
        place = path
        try:
            data = self.read_bytes(place)
        except FileNotFoundError:
            place = f"superseded/{path}"
            data = self.read_bytes(place)
        if sha256(data) != digest:
            raise CorruptFileError(
                f"{self.root}/{place} has changed since it was committed; delete it and run the job again", place
            )
        # One thread, and none of Arrow's pools: at exit these now and then abort the process (seen in 1 of 25 runs). A
        # partition is small, and workers are what runs side by side.
        with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
            return file.read(use_threads=False).replace_schema_metadata(None)

    # commits ----------------------------------------------------------------------------------------------------------

    @staticmethod
    def commit_path(stage: str, fingerprint: str, unit: str) -> str:
        """Where a worker creates the commit of a stage's unit."""
        return f"{folder_of(stage, fingerprint)}/{unit}.json"

    def publish(self, commit: Commit) -> bool:
        """Create the commit; False if another worker was first, which is as good."""
        text = commit.model_dump_json() + "\n"
        path = self.commit_path(commit.stage, commit.fingerprint, commit.partition)
        return self.create_exclusively(path, text.encode("utf-8"))

    def read_commit(self, stage: str, fingerprint: str, unit: str) -> Commit:
        """A commit that was not gathered into a part yet.

        Raises:
            FileNotFoundError: there is none.
        """
        return Commit.model_validate_json(self.read_bytes(self.commit_path(stage, fingerprint, unit)))

    def write_card(self, card: Card) -> None:
        """Keep a card where tables that name its id can find it."""
        self.create_exclusively(f"cards/{card.card_id}.json", (card.model_dump_json(indent=1) + "\n").encode("utf-8"))


def named(folder: str, stem: str, digest: str, suffix: str) -> str:
    """The path of a content-named file."""
    return f"{folder}/{stem}-{digest[:16]}{suffix}"


def table_path(table: str, unit: str, digest: str) -> str:
    """The path of a unit's table, by the table's hash."""
    return named(f"tables/{table}", unit, digest, ".parquet")


__all__ = ["CorruptFileError", "Row", "Store", "named", "table_path"]
