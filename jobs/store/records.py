"""What an output knows of its sources and specs: the inventory of each source, and the spec behind each index of shards.

inventory/<source>.json              which table is the source's, and when it was listed
inventory/<source>-<hash>.parquet    the table (pipeline/source/known.py: SNAPSHOT)
specs/<index>.json                   the spec, its stages' fingerprints and its inventory: what this index needs
"""

from __future__ import annotations

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
from schemas.cards import fingerprint
from schemas.config import ConfigError
from schemas.spec import Source
from schemas.storage.files import sha256


def source_key(source: Source) -> str:
    """Whose inventory: of all that decides what a listing finds."""
    return fingerprint(source.model_dump(mode="json", exclude={"name"}))[:16]


def index_name(source: Source) -> str:
    """The name of the shard index of a source: a slice of it (`pattern`) has its own beside that of the whole."""
    return "index" if source.pattern == "**/*" else f"index-{fingerprint(source.pattern)[:8]}"


def refresh_inventory(store: Store, source: Source) -> tuple[pa.Table, str]:
    """List the source and keep its table, with what is said of files that are not in it. Only new and changed files are opened.

    Raises:
        ConfigError: the source holds no audio, or the output cannot be written.
    """
    known = Known(_known_files(store, source))
    listing = survey(source, known)
    table, not_listed = known.snapshot(listing.items), describe(listing.not_listed)
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
        except (PermissionError, FileNotFoundError, NotADirectoryError) as error:
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
    return read_snapshot(store, record["table"]), record["not_listed"]


def read_snapshot(store: Store, path: str) -> pa.Table:
    """A table of the inventory. Columns that this version knows and the table does not are null."""
    table = pq.read_table(pa.BufferReader(store.read_bytes(path)), use_threads=False)
    for entry in SNAPSHOT:
        if entry.name not in table.column_names:
            table = table.append_column(entry.name, pa.nulls(table.num_rows, entry.type))
    return table.select(SNAPSHOT.names).cast(SNAPSHOT)


def _record(store: Store, source: Source) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(store.read_bytes(f"inventory/{source_key(source)}.json"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return record


def _known_files(store: Store, source: Source) -> pa.Table | None:
    """What any listing of the same folder, a slice of it perhaps, has found out."""
    record = _record(store, source)
    if record is not None:
        return read_snapshot(store, record["table"])
    tables = []
    for name in sorted(store.names("inventory")):
        if name.endswith(".json"):
            record = json.loads(store.read_bytes(f"inventory/{name}"))
            if record["source"] == source.uri:
                tables.append(read_snapshot(store, record["table"]))
    return pa.concat_tables(tables) if tables else None
