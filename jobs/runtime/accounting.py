"""The key a row is counted by, the input it came from, the audio it stands for; and the sums over the commits of a stage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from jobs.runtime.plan import Plan
from jobs.store.commit_rows import COUNTS
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


def place_of(key: str, *tables: Sequence[Row]) -> str:
    """Where the audio of a recording or a segment lies, in words to put behind a sentence; "" where the key itself says it."""
    uris = {row.recording_id: row.uri for table in tables for row in table if isinstance(row, Recording)}
    if key in uris:
        return f" ({uris[key]})"
    segments = (row for table in tables for row in table if isinstance(row, Segment) and row.segment_id == key)
    segment = next(segments, None)
    if segment is None or segment.recording_id not in uris:
        return ""
    return f" ({uris[segment.recording_id]}, from {segment.start / SAMPLE_RATE:.2f} s)"


def keep_common_segments(tables: dict[str, Sequence[Row]]) -> dict[str, Sequence[Row]]:
    """Of the tables that speak of segments, keep the segments that are in all of them.

    What one branch rejected (a segment that could not be aligned) is no input of the stage that joins the branches.
    """
    names = [name for name in tables if name not in (InventoryItem.TABLE, Recording.TABLE)]
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


@dataclass(frozen=True, kw_only=True)
class StageTotals:
    """Sums over a stage's commits. Hours are of audio."""

    commits: int
    rows_in: int
    rows_out: int
    rows_rejected: int
    hours_in: float
    hours_out: float
    hours_rejected: float
    seconds_busy: float
    taken_over: int
    """Files whose rows came from other commits."""
    rejects: Counter[str]

    @property
    def real_time_factor(self) -> float:
        """Seconds of work per second of audio that came in."""
        return self.seconds_busy / (self.hours_in * 3600) if self.hours_in else 0.0

    @property
    def reject_rate(self) -> float:
        """The larger of the shares of rows and of audio that were rejected."""
        by_rows = self.rows_rejected / self.rows_in if self.rows_in else 0.0
        audio = max(self.hours_in, self.hours_rejected)
        return max(by_rows, self.hours_rejected / audio if audio else 0.0)


def totals(plan: Plan, stage: str, among: np.ndarray | None = None) -> StageTotals:
    """Sums over the commits of a stage that stand, or those of them whose units `among` marks."""
    rejects: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    seconds, rows = 0.0, plan.rows(stage, among)
    for table in plan.logs[stage].select(rows, [*COUNTS, "seconds_busy", "rejects_by_code"]):
        seconds += pc.sum(table.column("seconds_busy")).as_py()
        for name in COUNTS:
            sums[name] += pc.sum(table.column(name)).as_py()
        for entry in pc.value_counts(table.column("rejects_by_code")).to_pylist():
            for code, count in json.loads(entry["values"]).items():
                rejects[code] += count * entry["counts"]
    hour = SAMPLE_RATE * 3600
    return StageTotals(
        commits=len(rows),
        rows_in=sums["rows_in"],
        rows_out=sums["rows_out"],
        rows_rejected=sums["rows_rejected"],
        hours_in=sums["samples_in"] / hour,
        hours_out=sums["samples_out"] / hour,
        hours_rejected=sums["samples_rejected"] / hour,
        seconds_busy=seconds,
        taken_over=sums["taken_over"],
        rejects=rejects,
    )
