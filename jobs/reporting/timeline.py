"""Who was busy when: the receipts of the commits (begun, ended, host, pool) as one row per pool and host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.reporting.strips import clean
from jobs.runtime.plan import Plan

BINS = 480
"""Columns of a row: a screen has no more to tell apart."""
GAP = 300.0
"""A pause this long (seconds) in which nobody worked is left out: it lies between two runs."""
MOST_ROWS = 60
TOLD = ("begun", "ended", "host", "pool")


@dataclass(frozen=True, kw_only=True)
class BusyRow:
    """A pool on a host."""

    pool: str
    host: str
    peak: int
    """Workers that were busy at the same time, at most."""
    busy: np.ndarray
    """float64 [BINS]: workers that were busy on average."""
    share: float
    """Of the peak's time over all runs."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The rows, over the time in which somebody worked."""

    rows: Sequence[BusyRow]
    runs: Sequence[tuple[float, float]]
    """Stretches of work without a long pause: begin and end, seconds since the epoch."""
    seconds: float
    """Their length together."""
    silent: int
    """Commits that do not say when they were made: those of earlier versions."""


def receipts(plan: Plan, stage: str) -> pa.Table:
    """The commits of a stage that stand, with what they took and, as texts, `begun`, `ended`, `host` and `pool` (null: not told).

    By regular expression over the column: none of a million JSON texts is parsed. UTC in one format sorts as texts do.
    """
    table = plan.logs[stage].read(["samples_in", "seconds_busy", "provenance"])
    table = table.filter(pc.is_in(table.column("unit"), pa.array(plan.units[stage]).cast(pa.string())))
    for name in TOLD:
        told = pc.extract_regex(table.column("provenance"), f'"{name}": "(?P<{name}>[^"]*)"')
        table = table.append_column(name, pc.struct_field(told, name))
    return table.drop_columns(["provenance"])


def gather_timeline(plan: Plan) -> Timeline:
    """From all stages of a plan."""
    table = pa.concat_tables([receipts(plan, stage).select(TOLD) for stage in plan.stages])
    said = table.filter(pc.is_valid(table.column("ended")))
    begun, ended = (_seconds(said.column(name)) for name in ("begun", "ended"))
    runs, shifts = _runs(begun, ended)
    seconds = sum(end - start for start, end in runs)
    if not runs:
        return Timeline(rows=[], runs=[], seconds=0.0, silent=table.num_rows)
    place = np.searchsorted([start for start, _ in runs], begun, side="right") - 1
    begun, ended = begun - shifts[place], ended - shifts[place]
    names = np.char.add(np.char.add(_texts(said, "pool"), "\n"), _texts(said, "host"))
    rows = []
    for name in dict.fromkeys(names.tolist()):  # in the order of the stages
        mine = names == name
        pool, _, host = name.partition("\n")
        peak, busy = peak_of(begun[mine], ended[mine]), busy_of(begun[mine], ended[mine], seconds, BINS)
        share = float((ended[mine] - begun[mine]).sum() / (peak * seconds)) if seconds else 0.0
        rows.append(BusyRow(pool=pool, host=host, peak=peak, busy=busy, share=share))
    return Timeline(rows=rows, runs=runs, seconds=seconds, silent=table.num_rows - said.num_rows)


def _seconds(column: pa.ChunkedArray) -> np.ndarray:
    """ISO texts in UTC -> float64 seconds since the epoch."""
    times = pc.cast(pc.utf8_slice_codeunits(column, 0, 23), pa.timestamp("ms"))
    seconds: np.ndarray = np.asarray(pc.cast(times, pa.int64()), np.float64) / 1000
    return seconds


def _texts(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(pc.fill_null(table.column(name), "?").to_pylist(), np.str_)


def _runs(begun: np.ndarray, ended: np.ndarray) -> tuple[list[tuple[float, float]], np.ndarray]:
    """Stretches without a pause of GAP, and how far each is moved so that they follow upon one another from 0."""
    if not len(begun):
        return [], np.zeros(0)
    order = np.argsort(begun, kind="stable")
    latest = np.maximum.accumulate(ended[order])
    cuts = 1 + np.flatnonzero(begun[order][1:] - latest[:-1] > GAP)
    starts = begun[order][np.concatenate([[0], cuts])]
    ends = latest[np.concatenate([cuts - 1, [len(begun) - 1]])]
    before = np.concatenate([[0.0], np.cumsum(ends - starts)[:-1]])
    return list(zip(starts.tolist(), ends.tolist(), strict=True)), starts - before


def busy_of(begun: np.ndarray, ended: np.ndarray, seconds: float, bins: int) -> np.ndarray:
    """How many of the intervals hold on average in each of `bins` equal parts of [0, seconds): float64 [bins]."""
    edges = np.linspace(0.0, seconds, bins + 1)

    def passed(moments: np.ndarray) -> np.ndarray:
        """Per edge: the time since each moment before it, summed."""
        moments = np.sort(moments)
        count = np.searchsorted(moments, edges)
        total: np.ndarray = count * edges - np.concatenate([[0.0], np.cumsum(moments)])[count]
        return total

    width = seconds / bins if seconds else 1.0
    busy: np.ndarray = np.diff(passed(begun) - passed(ended)) / width
    np.maximum(busy, 0.0, out=busy)
    return busy


def peak_of(begun: np.ndarray, ended: np.ndarray) -> int:
    """How many intervals overlap at most; one that ends where another begins does not."""
    moments = np.concatenate([ended, begun])
    steps = np.concatenate([np.full(len(ended), -1), np.full(len(begun), 1)])
    order = np.argsort(moments, kind="stable")
    return max(int(np.cumsum(steps[order]).max()), 1)


def draw(timeline: Timeline) -> str:
    """As HTML: a row of SVG per pool and host, and the times of the runs."""
    if not timeline.rows:
        return '<p class="note">These commits were made by an earlier version and do not say when.</p>'
    shown = sorted(timeline.rows, key=lambda row: -row.share)[:MOST_ROWS]
    rows = [_row(row, timeline) for row in timeline.rows if row in shown]
    runs = " · ".join(f"{_clock(start)} to {_clock(end)}" for start, end in timeline.runs[:8])
    more = f" and {len(timeline.runs) - 8} more" if len(timeline.runs) > 8 else ""
    hidden = f" The {len(shown)} busiest of {len(timeline.rows)} rows." if len(shown) < len(timeline.rows) else ""
    silent = f" {timeline.silent} commits of earlier versions do not say when." if timeline.silent else ""
    return (
        f'<div class="timeline">{"".join(rows)}</div><p class="note">Height: workers of the pool that were inside a '
        f"stage, of as many as ever were at once. Runs (UTC), pauses between them left out: {runs}{more}.{hidden}{silent}</p>"
    )


def _row(row: BusyRow, timeline: Timeline) -> str:
    steps = "".join(f"V{20 - 20 * min(value / row.peak, 1.0):.2f}h1" for value in row.busy.tolist())
    ends = np.cumsum([end - start for start, end in timeline.runs])[:-1] / max(timeline.seconds, 1e-9) * BINS
    lines = "".join(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="20" class="level"/>' for x in ends.tolist())
    title = f"{row.pool} on {row.host}: {row.share:.0%} busy, at most {row.peak} at once"
    return (
        f'<div class="stage" title="{clean(title)}"><span class="name">{clean(row.pool)}</span>'
        f'<svg class="busy" viewBox="0 0 {BINS} 20" preserveAspectRatio="none" role="img"><title>{clean(title)}</title>'
        f'<path d="M0 20{steps}V20z"/>{lines}</svg>'
        f'<span class="number">{row.share:.0%} <small>{clean(row.host)}</small></span></div>'
    )


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
