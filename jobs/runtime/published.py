"""What a finished run leaves for readers: which files are committed, views for SQL, and nothing else beside them.

tables/<index>.parquet    the committed files of this index by table (schemas/reading/output.py reads by it)
views/<index>.sql         the same as DuckDB views
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.runtime.plan import Plan
from jobs.store.commit_log import is_among
from jobs.store.records import index_name
from jobs.store.standing import NAMED, keys_of_names
from schemas.commit import KINDS
from schemas.config import in_short
from schemas.errors import DataError
from schemas.reading.output import CATALOG, views
from schemas.tables import TABLES


def publish(plan: Plan) -> None:
    """State which files are committed, and move those that no recorded spec needs out of the way.

    Only for the owner of the output, and only when all is done.
    """
    name = index_name(plan.spec.source)
    buffer = pa.BufferOutputStream()
    tables: set[str] = set()
    with pq.ParquetWriter(buffer, CATALOG, compression="zstd") as writer:
        for entries in catalog_of(plan):
            writer.write_table(entries)
            tables |= set(pc.unique(entries.column("table")).to_pylist())
    plan.store.write_bytes(f"tables/{name}.parquet", buffer.getvalue().to_pybytes())
    plan.store.write_bytes(f"views/{name}.sql", views(plan.store.root, name, tables).encode())
    arrange(plan)


def catalog_of(plan: Plan) -> Iterator[pa.Table]:
    """The committed files of the plan (CATALOG), by table and in the order of the partitions, some thousand at a time."""
    rejects = []
    for stage in plan.stages:
        if KINDS[stage].gathers:
            continue
        rows, log = plan.rows(stage), plan.logs[stage]
        for table in log.take(rows, ["path", "rows", "bytes"]):
            yield _entries(table, "", stage)
        for table in log.take(rows, ["rejects_path", "rejects_rows", "rejects_bytes"]):
            rejects.append(_entries(table.filter(pc.is_valid(table.column("rejects_path"))), "rejects_", "rejects"))
    yield from rejects


def _entries(rows: pa.Table, prefix: str, table: str) -> pa.Table:
    columns = [rows.column(f"{prefix}{name}") for name in ("path", "rows", "bytes")]
    return pa.table([pa.array([table] * rows.num_rows, pa.string()), *columns], schema=CATALOG)


def arrange(plan: Plan) -> None:
    """Move table files that no index's catalogue names to superseded/, and back what one names again.

    They stay for taking rows over, until `gc --stale`.

    Raises:
        DataError: a catalogue, perhaps of another index, cannot be read, so what it names is not known.
    """
    store = plan.store
    named: dict[str, list[np.ndarray]] = {}
    for catalog in sorted(name for name in store.names("tables") if name.endswith(".parquet")):
        data = pa.BufferReader(store.read_bytes(f"tables/{catalog}"))
        try:
            for batch in pq.ParquetFile(data, pre_buffer=False).iter_batches(
                columns=["table", "path"], use_threads=False
            ):
                for table in pc.unique(batch.column("table")).to_pylist():
                    paths = batch.column("path").filter(pc.equal(batch.column("table"), table))
                    named.setdefault(table, []).append(keys_of_names(pc.replace_substring_regex(paths, "^.*/", "")))
        except (pa.ArrowException, OSError) as error:  # of the bytes: they are here
            raise DataError(
                f"the list of tables {store.root}/tables/{catalog} is damaged ({in_short(error)})",
                "remove it, and run jobs/tokenize_audio.py with the spec of that index, which writes it anew",
            ) from error
    for name in TABLES:
        wanted = np.sort(np.concatenate([np.empty(0, np.uint64), *named.get(name, [])]))
        for source, target, keep in (("", "superseded/", False), ("superseded/", "", True)):
            for batch in store.listing(f"{source}tables/{name}").to_batches():
                files = batch.column("name").filter(pc.match_substring_regex(batch.column("name"), NAMED))
                moving = is_among(keys_of_names(files), wanted) == keep
                for file_name in files.filter(pa.array(moving)).to_pylist():
                    path = f"tables/{name}/{file_name}"
                    store.move(f"{source}{path}", f"{target}{path}")
