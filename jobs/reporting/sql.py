"""Ask an output's committed tables in SQL: views recordings, segments, transcripts, words, units, patches, rejects (DuckDB).

Times are samples at 16 kHz; segments and words also have start_s and end_s in seconds. The same views lie beside the tables, as
views/index.sql, for other tools. Columns: schemas/tables.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from schemas.commands.cli import Parser, command
from schemas.config import ConfigError
from schemas.reading.output import open_output, views

EXAMPLES = """  lst sql runs/demo "select text, start_s, end_s from words order by end_s desc limit 5"
  lst sql runs/demo "describe words"
  lst sql s3://bucket/run "select code, count(*) from rejects group by code"
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one query over an output's committed tables."""
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument("output", help="an output folder or URL")
    parser.add_argument("query", help="SQL over the views")
    parser.add_argument("--index", default="index", help="which index of the output (a slice has its own)")
    given = parser.parse_args(arguments)
    if not given.query.strip("; \n"):
        raise ConfigError("the query is empty", "lst sql --help has examples")
    try:
        import duckdb
    except ImportError as error:
        raise ConfigError("this command wants DuckDB: pip install duckdb") from error
    output = open_output(given.output, given.index)
    connection = duckdb.connect()
    try:
        if "://" in given.output:
            connection.register_filesystem(output.filesystem)
        connection.execute(views(given.output.rstrip("/"), given.index, output.tables))
        result = connection.sql(given.query)
    except duckdb.Error as error:
        lines = [line.strip() for line in str(error).splitlines()]
        said = " ".join(line for line in lines if not line.startswith(("LINE ", "^")))  # those draw where in the query
        raise ConfigError(f"DuckDB says: {said.strip()}") from error
    if result is not None:
        result.show(max_rows=1000, max_width=200)
    return 0


if __name__ == "__main__":
    sys.exit(main())
