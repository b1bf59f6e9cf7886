"""What an output knows of its sources and specs: the inventory of each source, and the spec behind each index of shards.

inventory/<source>.json              which table is the source's, and when it was listed
inventory/<source>-<hash>.parquet    the table (pipeline/source/known.py: SNAPSHOT)
specs/<index>.json                   the spec, its stages' fingerprints and its inventory: what this index needs
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.store.store import Store
from pipeline.source.inventory import survey
from pipeline.source.known import SNAPSHOT, Known
from pipeline.source.listing import describe
from pipeline.source.partitions import ITEM
from pipeline.source.probe import LookMany
from schemas.cards import fingerprint
from schemas.config import ConfigError, in_short
from schemas.errors import StorageError
from schemas.spec import Source
from schemas.storage.files import sha256

SPEC_REMEDY = (
    "run jobs/tokenize_audio.py with that spec again, which notes it anew, or remove the file if that index is given up"
)
"""What to do where a spec on record is damaged: what it needs is not known then."""


def source_key(source: Source) -> str:
    """Whose inventory: of all that decides what a listing finds."""
    return fingerprint(source.model_dump(mode="json", exclude={"name"}))[:16]


def index_name(source: Source) -> str:
    """The name of the shard index of a source: a slice of it (`pattern`) has its own beside that of the whole."""
    return "index" if source.pattern == "**/*" else f"index-{fingerprint(source.pattern)[:8]}"


def refresh_inventory(store: Store, source: Source, look_many: LookMany | None = None) -> tuple[pa.Table, str]:
    """List the source and keep its table, with what is said of files that are not in it. Only new and changed files are opened,
    by `look_many` where it is given.

    Raises:
        ConfigError: the source holds no audio, or the output cannot be written.
    """
    known = Known(_known_files(store, source))
    listing = survey(source, known, look_many)
    table, not_listed = listing.table, describe(listing.not_listed)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    path = f"inventory/{source_key(source)}-{sha256(buffer.getvalue())[:16]}.parquet"
    record = _record(store, source)
    if record is None or (record["table"], record["not_listed"]) != (path, not_listed):
        facts = {
            "table": path,
            "source": source.uri,
            "files": table.num_rows,
            "not_listed": not_listed,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            store.write_layout()
            store.write_bytes(path, buffer.getvalue())
            store.write_bytes(f"inventory/{source_key(source)}.json", json.dumps(facts, indent=1).encode())
        except OSError as error:
            wrong = isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError)
            if not wrong and error.errno != errno.EROFS:
                raise
            raise ConfigError(f"cannot write to {store.root}: {error}; choose another `output`") from error
    return table, not_listed


def has_inventory(store: Store, source: Source) -> bool:
    """Whether the source was ever listed into this output."""
    return _record(store, source) is not None


def read_inventory(store: Store, source: Source) -> tuple[pa.Table, str]:
    """The same as it was last listed; no file of the source is looked at.

    Raises:
        ConfigError: it was never listed into this output.
    """
    record = _record(store, source)
    if record is None:
        raise ConfigError(
            f"{store.root} holds no inventory of {source.uri} (pattern {source.pattern}) yet",
            "run jobs/tokenize_audio.py, or lst inventory, with the same --config and overrides first",
        )
    return read_snapshot(store, record["table"], ITEM), record["not_listed"]


def read_snapshot(store: Store, path: str, schema: pa.Schema = SNAPSHOT) -> pa.Table:
    """A table of the inventory with these columns. Those that this version knows and the table does not are null.

    Raises:
        ConfigError: it is gone or damaged.
    """
    try:
        source = pa.OSFile(store.path(path)) if store.is_local else pa.BufferReader(store.read_bytes(path))
        # as in `Store.read_arrow`: without Arrow's threads, which now and then abort the process at its exit
        with pq.ParquetFile(source, pre_buffer=False) as file:
            said = [
                name for name in schema.names if name in file.schema_arrow.names and not _is_null(file.metadata, name)
            ]
            table, rows = file.read(said, use_threads=False), file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, StorageError):
            raise
        raise ConfigError(
            f"the inventory {store.root}/{path} cannot be read ({in_short(error)})",
            "run lst inventory with the same --config and overrides: it lists the source anew",
        ) from error
    columns = [table.column(entry.name) if entry.name in said else _nulls(rows, entry.type) for entry in schema]
    return pa.table(columns, names=schema.names).cast(schema)


def _is_null(metadata: Any, name: str) -> bool:
    """Whether a column holds nothing, by the statistics of its file."""
    place = metadata.schema.names.index(name)
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    parts = [(group.num_rows, group.column(place).statistics) for group in groups]
    return all(told is not None and told.has_null_count and told.null_count == rows for rows, told in parts)


def _nulls(rows: int, kind: pa.DataType) -> pa.ChunkedArray:
    """A column of nulls that takes the memory of one piece of it: an inventory has nine such columns as a rule."""
    piece = pa.nulls(min(rows, 1 << 16), kind)
    whole, rest = divmod(rows, 1 << 16)
    return pa.chunked_array([piece] * whole + [piece.slice(0, rest)], kind)


def _record(store: Store, source: Source) -> dict[str, Any] | None:
    return _read_record(store, f"{source_key(source)}.json")


def _read_record(store: Store, name: str) -> dict[str, Any] | None:
    """What is said of an inventory; None where nothing is, or nothing that can be read."""
    try:
        record: dict[str, Any] = json.loads(store.read_bytes(f"inventory/{name}"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return record


def tables_on_record(store: Store) -> set[str]:
    """The tables that are the latest inventory of a source."""
    records = (_read_record(store, name) for name in store.names("inventory") if name.endswith(".json"))
    return {record["table"] for record in records if record is not None}


def _known_files(store: Store, source: Source) -> pa.Table | None:
    """What any listing of the same folder, a slice of it perhaps, has found out; nothing where it cannot be read."""
    record = _record(store, source)
    names = sorted(name for name in store.names("inventory") if name.endswith(".json"))
    records = [record] if record is not None else [_read_record(store, name) for name in names]
    tables = []
    for entry in records:
        if entry is not None and entry["source"] == source.uri:
            with contextlib.suppress(ConfigError):
                tables.append(read_snapshot(store, entry["table"]))
    return pa.concat_tables(tables) if tables else None
