"""What a finished run leaves for readers: which files are committed, views for SQL, and nothing else beside them.

tables/<index>.parquet    the committed files of this index by table (schemas/reading/output.py reads by it)
views/<index>.sql         the same as DuckDB views
"""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.runtime.plan import Plan
from jobs.store.records import index_name
from schemas.reading.output import CATALOG, views
from schemas.tables import TABLES


def publish(plan: Plan) -> None:
    """State which files are committed, and move those that no recorded spec needs out of the way.

    Only for the owner of the output, and only when all is done.
    """
    name = index_name(plan.spec.source)
    catalog = catalog_of(plan)
    buffer = io.BytesIO()
    pq.write_table(catalog, buffer, compression="zstd")
    plan.store.write_bytes(f"tables/{name}.parquet", buffer.getvalue())
    plan.store.write_bytes(
        f"views/{name}.sql", views(plan.store.root, name, set(catalog.column("table").to_pylist())).encode()
    )
    arrange(plan, catalog)


def catalog_of(plan: Plan) -> pa.Table:
    """The committed files of the plan (CATALOG), by table and in the order of the partitions."""
    pieces = []
    for stage in plan.stages:
        if stage == "shards":
            continue
        log = plan.logs[stage].read(["path", "rows", "bytes", "rejects_path", "rejects_rows", "rejects_bytes"])
        names = pa.array(plan.units[stage][plan.done[stage]]).cast(pa.string())
        rows = log.take(pc.index_in(pc.unique(names), log.column("unit").combine_chunks()))
        pieces.append(_entries(rows, "", stage))
        pieces.append(_entries(rows.filter(pc.is_valid(rows.column("rejects_path"))), "rejects_", "rejects"))
    return pa.concat_tables(pieces)


def _entries(rows: pa.Table, prefix: str, table: str) -> pa.Table:
    columns = [rows.column(f"{prefix}{name}") for name in ("path", "rows", "bytes")]
    return pa.table([pa.array([table] * rows.num_rows, pa.string()), *columns], schema=CATALOG)


def arrange(plan: Plan, catalog: pa.Table) -> None:
    """Move table files that no index's catalogue names to superseded/, and back what one names again.

    They stay for taking rows over, until `gc --stale`.
    """
    store = plan.store
    wanted = catalog.column("path").combine_chunks()
    for other in sorted(store.names("tables")):
        if other.endswith(".parquet") and other != f"{index_name(plan.spec.source)}.parquet":
            table = pq.read_table(pa.BufferReader(store.read_bytes(f"tables/{other}")), columns=["path"])
            wanted = pa.concat_arrays([wanted, table.column("path").combine_chunks()])
    for name in TABLES:
        for source, target, keep in (("", "superseded/", False), ("superseded/", "", True)):
            files = store.listing(f"{source}tables/{name}").column("name")
            paths = pc.binary_join_element_wise(f"tables/{name}", files, "/")
            moving = pc.is_in(paths, wanted) if keep else pc.invert(pc.is_in(paths, wanted))
            for path in paths.filter(moving).to_pylist():
                if not path.endswith(".tmp"):
                    store.move(f"{source}{path}", f"{target}{path}")
