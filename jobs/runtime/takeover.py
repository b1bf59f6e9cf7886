"""Rows that some commit of the same stage and fingerprint holds already are taken over, not computed again.

Sound because a stage treats each input row on its own and is named by all that its rows depend on: the same file gives the same
rows in whichever partition it lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.runtime.accounting import parent_of
from jobs.runtime.job import Held
from jobs.store.commit_log import CommitLog, is_among, keys_of
from jobs.store.store import CorruptFileError, Store, table_path
from pipeline.source.partitions import content_id
from schemas.arrow import Row, RowType, to_rows
from schemas.cards import fingerprint
from schemas.commit import KINDS
from schemas.tables import TABLES, InventoryItem, Recording, Reject

COLUMNS = ("sha256", "rejects_sha256", "member_ids", "member_keys", "seconds_busy")


def member_id(item: InventoryItem, labels: Sequence[str]) -> str:
    """What a stage that reads these labels knows a file by."""
    said = [getattr(item, name) for name in labels]
    content = content_id(item)
    return content if all(value is None for value in said) else fingerprint([content, *said])[:16]


class HeldRows:
    """Which commits of a stage hold rows of which files: 16 bytes for each file of each commit."""

    def __init__(self, log: CommitLog) -> None:
        self._log = log
        ids, owners = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
        for table in log.written(["member_ids"]):
            members = table.column("member_ids").combine_chunks()
            ids.append(_keys(pc.list_flatten(members)))
            owners.append(np.repeat(_keys(table.column("unit")), np.asarray(pc.list_value_length(members), np.int64)))
        self._ids, place = np.unique(np.concatenate(ids), return_index=True)
        self._owners = np.concatenate(owners)[place]
        """Keys of the units that hold the ids: rows of the log change while a run goes on."""

    def find(self, wanted: Sequence[str]) -> list[Held]:
        """The commits that hold these members, each member once."""
        keys = keys_of(np.asarray(wanted, "S16"))
        known = is_among(keys, self._ids)
        owners: dict[int, list[str]] = {}
        for name, key in zip(np.asarray(wanted)[known].tolist(), keys[known], strict=True):
            owners.setdefault(int(self._owners[np.searchsorted(self._ids, key)]), []).append(name)
        units = np.asarray([f"{owner:016x}" for owner in sorted(owners)], "S16")
        rows = self._log.find(units)
        held = (row for table in self._log.take(rows, COLUMNS) for row in table.to_pylist())
        return [self._held(row, owners[int(row["unit"], 16)]) for row in held]

    @staticmethod
    def _held(row: dict[str, Any], names: Sequence[str]) -> Held:
        members = dict(zip(row["member_ids"], row["member_keys"], strict=True))
        return Held(
            unit=row["unit"],
            sha256=row["sha256"],
            rejects_sha256=row["rejects_sha256"],
            members={name: members[name] for name in names},
            seconds_busy=row["seconds_busy"] * len(names) / len(members),
        )


def _keys(names: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return keys_of(np.asarray(names.to_numpy(zero_copy_only=False), "S16"))


def read_held(store: Store, stage: str, held: Held) -> tuple[list[Row], list[Reject]] | None:
    """The rows and rejects of the wanted members; None where the files are gone or damaged, so they are computed."""
    keys = set(held.members.values())
    row: type[Row] = TABLES[stage]
    rejects: list[Reject] = []
    try:
        rows: list[Row] = _rows(store, row, stage, held.unit, held.sha256)
        if held.rejects_sha256:
            rejects = _rows(store, Reject, "rejects", held.unit, held.rejects_sha256)
    except (FileNotFoundError, CorruptFileError):
        return None
    if KINDS[stage].restates:
        return (
            [entry for entry in rows if isinstance(entry, Recording) and entry.uri in keys],
            [entry for entry in rejects if entry.id in keys],
        )
    return (
        [entry for entry in rows if parent_of(entry).partition("-")[0] in keys],
        [entry for entry in rejects if entry.id.partition("-")[0] in keys],
    )


def _rows(store: Store, row: type[RowType], table: str, unit: str, digest: str) -> list[RowType]:
    return to_rows(row, store.read_arrow(table_path(table, unit, digest), digest))


def relabel(
    rows: Sequence[Row], rejects: Sequence[Reject], items: Mapping[str, InventoryItem], held: Held, source: str
) -> tuple[list[Row], list[Reject]]:
    """Recordings and rejects of files as they are called, and what is said of them, now."""
    now = {key: items[name] for name, key in held.members.items()}
    found: list[Row] = []
    for row in rows:
        assert isinstance(row, Recording)
        item = now[row.uri]
        labels = {
            name: getattr(item, name)
            for name in Recording.model_fields
            if name in InventoryItem.model_fields and name not in ("bytes",)
        }
        found.append(row.with_updates(**labels, source=source))
    return found, [
        row.with_updates(id=now[row.id].uri, detail=row.detail.replace(f"{row.id}: ", f"{now[row.id].uri}: ", 1))
        for row in rejects
    ]
