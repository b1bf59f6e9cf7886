"""Reading an output's tables as they are committed: `open_output("runs/demo").words` is an Arrow dataset, filters pushed down.

Beside the committed files of a finished run there may be others, of a run that is going on; readers follow the catalogue that a
run leaves at its end, and never glob.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from schemas.arrow import arrow_schema
from schemas.audio import SAMPLE_RATE
from schemas.config import ConfigError, in_short
from schemas.errors import DataError
from schemas.storage.files import filesystem_of
from schemas.tables import TABLES

CATALOG = pa.schema([("table", pa.string()), ("path", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64())])
READ = tuple(name for name in TABLES if name != "inventory")
IN_SECONDS = {"segments": ("start", "end"), "words": ("start", "end")}
"""Columns in samples at 16 kHz that views also give in seconds, as start_s and end_s (`end` is a reserved word in SQL)."""


SQL_TYPES = {
    "string": "VARCHAR",
    "bool": "BOOLEAN",
    "int8": "TINYINT",
    "uint8": "UTINYINT",
    "uint16": "USMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
}


class OutputTables:
    """The committed tables of one index of an output. Attributes are named as the tables are."""

    def __init__(self, root: str, index: str = "index") -> None:
        """Raises ConfigError if no run has finished there."""
        self.root, self.index = root.rstrip("/"), index
        self._fs, self._path = filesystem_of(self.root)
        try:
            self.catalog = pq.read_table(pa.BufferReader(self._read(f"tables/{index}.parquet"))).cast(CATALOG)
        except FileNotFoundError as error:
            raise ConfigError(
                f"{self.root} has no finished tables ({index}): run jobs/tokenize_audio.py to its end"
            ) from error
        except pa.ArrowException as error:
            raise DataError(
                f"the list of tables {self.root}/tables/{index}.parquet is damaged ({in_short(error)})",
                "run jobs/tokenize_audio.py again, which writes it anew",
            ) from error

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem of the output."""
        return self._fs

    @property
    def tables(self) -> set[str]:
        """The tables that have files."""
        return set(self.catalog.column("table").to_pylist())

    def __getattr__(self, name: str) -> ds.Dataset:
        if name not in READ:
            raise AttributeError(f"an output has no table {name!r}; it has {', '.join(READ)}")
        return self.table(name)

    def table(self, name: str) -> ds.Dataset:
        """A table's committed rows as an Arrow dataset. Columns and units: schemas/tables.py."""
        schema = arrow_schema(TABLES[name])
        return ds.dataset(self.files(name), schema=schema, format="parquet", filesystem=self._fs)

    def files(self, name: str) -> list[str]:
        """The committed files of a table, as the filesystem names them."""
        return [f"{self._path}/{path}" for path in self.paths(name)]

    def paths(self, name: str) -> list[str]:
        """The committed files of a table, relative to the output."""
        chosen = self.catalog.filter(pc.equal(self.catalog.column("table"), name))
        paths: list[str] = chosen.column("path").to_pylist()
        return paths

    @cached_property
    def inventory(self) -> pa.Table:
        """The files of the source, as they were listed for this index."""
        spec = json.loads(self._read(f"specs/{self.index}.json"))
        record = json.loads(self._read(f"inventory/{spec['inventory']}.json"))
        return pq.read_table(pa.BufferReader(self._read(record["table"])))

    def _read(self, relative: str) -> Any:
        return self._fs.cat_file(f"{self._path}/{relative}")


def open_output(root: str, index: str = "index") -> OutputTables:
    """The committed tables of an output: a folder or any fsspec URL. A slice of the source has an index of its own.

    Raises:
        ConfigError: no run has finished there.
    """
    return OutputTables(root, index)


def views(root: str, index: str, tables: Collection[str]) -> str:
    """DuckDB views over the committed tables, as SQL: `duckdb -init runs/demo/views/index.sql`, or `.read` it.

    The files are looked up in the catalogue when the views are made, so the text is small whatever the corpus. `tables` are those
    that have files; the others are views without rows.
    """
    place = root.replace("'", "''")
    lines = [
        f"-- The committed tables of {index}. Times are samples at 16 kHz; start_s and end_s are seconds.",
        f"CREATE OR REPLACE TEMP TABLE committed AS FROM read_parquet('{place}/tables/{index}.parquet');",
    ]
    for name in READ:
        seconds = "".join(f', "{time}" / {SAMPLE_RATE}.0 AS {time}_s' for time in IN_SECONDS.get(name, ()))
        if name in tables:
            files = f"SELECT list('{place}/' || path) FROM committed WHERE \"table\" = '{name}'"
            lines.append(f"SET VARIABLE {name}_files = ({files});")
            rows = f"SELECT *{seconds} FROM read_parquet(getvariable('{name}_files'))"
        else:
            columns = ", ".join(
                f'NULL::{sql_type(field.type)} AS "{field.name}"' for field in arrow_schema(TABLES[name])
            )
            rows = f"SELECT *{seconds} FROM (SELECT {columns}) WHERE false"
        lines.append(f"CREATE OR REPLACE TEMP VIEW {name} AS {rows};")
    return "\n".join(lines) + "\n"


def sql_type(kind: pa.DataType) -> str:
    """The DuckDB type of an Arrow type."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    return SQL_TYPES[str(kind)]
