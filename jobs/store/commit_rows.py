"""A commit as a row of columns, and back: what the log of a stage (jobs/store/commit_log.py) is made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from schemas.commit import KINDS, Commit, Output

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


def commit_of(row: dict[str, Any], stage: str, fingerprint: str) -> Commit:
    """The commit that a row of SCHEMA states."""
    outputs = {KINDS[stage].output: Output(**{part: row[part] for part in FILE})}
    if row["rejects_path"] is not None:
        outputs["rejects"] = Output(**{part: row[f"rejects_{part}"] for part in FILE})
    return Commit(
        stage=stage,
        fingerprint=fingerprint,
        partition=row["unit"],
        members=dict(zip(row["member_ids"], row["member_keys"], strict=True)),
        outputs=outputs,
        seconds_busy=row["seconds_busy"],
        **{part: row[part] for part in COUNTS},
        **{part: json.loads(row[part]) for part in JSONS},
    )


def subset(columns: Sequence[str] | None) -> pa.Schema:
    """SCHEMA, or `unit` and these columns of it."""
    names = SCHEMA.names if columns is None else dict.fromkeys(["unit", *columns])
    return pa.schema([SCHEMA.field(name) for name in names])
