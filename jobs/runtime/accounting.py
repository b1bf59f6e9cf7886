"""Whose row is whose: the key a row is counted by, the input it came from, and the audio it stands for."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.tables import InventoryItem, Recording, Segment


def key_of(row: Row) -> str:
    """The key by which a row is counted and rejected: a uri, a recording id or a segment id."""
    if isinstance(row, InventoryItem):
        return row.uri
    return row.recording_id if isinstance(row, Recording) else row.segment_id  # type: ignore[attr-defined]


def parent_of(row: Row) -> str:
    """The key of the input row that an output row came from."""
    if isinstance(row, Recording):
        return row.uri
    return row.recording_id if isinstance(row, Segment) else key_of(row)


def first_per_parent(rows: Sequence[Row]) -> list[Row]:
    """Rows to count samples by: every segment, but each other parent once (a transcript has many words)."""
    if rows and isinstance(rows[0], Segment):
        return list(rows)
    return list({parent_of(row): row for row in reversed(rows)}.values())


def samples_by_key(*tables: Sequence[Row]) -> dict[str, int]:
    """16 kHz samples of every file (by its header), recording and segment that the tables tell of."""
    samples: dict[str, int] = {}
    for row in (row for table in tables for row in table):
        if isinstance(row, InventoryItem):
            samples[row.uri] = round((row.seconds or 0.0) * SAMPLE_RATE)
        elif isinstance(row, Recording):
            samples[row.recording_id] = row.num_samples_16k
        elif isinstance(row, Segment):
            samples[row.segment_id] = row.end - row.start
    return samples


def keep_common_segments(tables: dict[str, Sequence[Row]]) -> dict[str, Sequence[Row]]:
    """Of the tables that speak of segments, keep the segments that are in all of them.

    What one branch rejected (a segment that could not be aligned) is no input of the stage that joins the branches.
    """
    names = [name for name in tables if name not in ("inventory", "recordings")]
    if len(names) < 2:
        return tables
    common = set.intersection(*({key_of(row) for row in tables[name]} for name in names))
    return {
        name: [row for row in rows if key_of(row) in common] if name in names else rows for name, rows in tables.items()
    }


def check_complete(stage: str, partition: str, primary: set[str], produced: set[str], rejected: set[str]) -> None:
    """Nothing vanishes and nothing is both passed on and rejected.

    Raises:
        RuntimeError: the stage lost rows, or invented some.
    """
    if produced & rejected or produced | rejected != primary:
        lost, odd = sorted(primary - produced - rejected), sorted((produced | rejected) - primary)
        raise RuntimeError(
            f"{stage} lost rows of {partition}: {len(lost)} unaccounted for {lost[:3]}, {len(odd)} never given {odd[:3]}, "
            f"{len(produced & rejected)} both passed on and rejected"
        )
