"""The state of a run for whoever looks from outside: from the log of commits and the lease, wherever the run is."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.engine.run import stage_progress
from jobs.monitoring.estimate import RECENT, Estimate, StageProgress, count_codes, duration, estimate
from jobs.reporting.timeline import receipts
from jobs.runtime.plan import Plan, recorded_plan, refresh
from jobs.store.lease import read_owner
from jobs.store.records import SPEC_REMEDY
from jobs.store.store import Store
from schemas.audio import SAMPLE_RATE

NOTHING_KNOWN = Estimate(share_done=None, rate=None, seconds_left=None)


@dataclass(frozen=True, kw_only=True)
class Recent:
    """What one stage did lately."""

    hours_per_hour: float
    """Hours of audio that came into it per hour."""
    busy_workers: float
    """Seconds spent inside it per second."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What `lst status` says."""

    output: str
    state: str
    """empty, running, stopped (the owner said so), dead (it did not), finished."""
    owner: dict[str, Any] | None = None
    """Of the run that works, or did last."""
    heartbeat_seconds: float | None = None
    """Age of the owner's last sign of life."""
    spec: str = ""
    """Which record of the output this is of."""
    others: int = 0
    """Records of other slices or settings."""
    stages: list[StageProgress] = field(default_factory=list)
    recent: dict[str, Recent] = field(default_factory=dict)
    """Of the stages that finished something lately. What the others are at is not in the log of commits."""
    estimate: Estimate = NOTHING_KNOWN

    def as_json(self) -> dict[str, Any]:
        """What `lst status --as-json` prints."""
        stages = [
            vars(stage) | {"rejects": dict(stage.rejects), "hours_left": stage.hours_left} for stage in self.stages
        ]
        recent = {name: asdict(recent) for name, recent in self.recent.items()}
        return vars(self) | {"stages": stages, "recent": recent, "estimate": asdict(self.estimate)}


def read_state(output: str, now: float | None = None) -> RunState:
    """How an output stands. Nothing is written, no model and no file of the source is needed."""
    now = time.time() if now is None else now
    store = Store(output)
    store.check_layout()
    owner, alive = read_owner(store)
    beat = max(now - owner["heartbeat"], 0.0) if owner is not None else None
    names = sorted(name for name in store.names("specs") if name.endswith(".json"))
    records = {name: store.read_json(f"specs/{name}", SPEC_REMEDY) for name in names}
    if not records:
        state = "running" if alive else "empty"
        return RunState(output=output, state=state, owner=owner, heartbeat_seconds=beat)
    name = max(records, key=lambda name: str(records[name]["when"]))
    plan = recorded_plan(store, records[name])
    refresh(plan, check_files=False)
    stages = [stage_progress(plan, stage) for stage in plan.stages]
    finished = plan.is_complete()
    stopped = owner is None or owner.get("released")
    recent, work, seconds = _lately(plan, now if alive else None)
    return RunState(
        output=output,
        state="running" if alive else "finished" if finished else "stopped" if stopped else "dead",
        owner=owner,
        heartbeat_seconds=beat,
        spec=name.removesuffix(".json"),
        others=len(records) - 1,
        stages=stages,
        recent=recent,
        estimate=estimate(stages, work, seconds),
    )


def _lately(plan: Plan, now: float | None) -> tuple[dict[str, Recent], float, float]:
    """What each stage did in the last minutes (before now, or before the last commit), busy seconds in all, over how many."""
    tables = {stage: _told(receipts(plan, stage)) for stage in plan.stages}
    last = max((pc.max(table.column("ended")).as_py() or "" for table in tables.values()), default="")
    if not last:
        return {}, 0.0, 0.0
    end = datetime.fromisoformat(last).timestamp() if now is None else now
    cutoff = datetime.fromtimestamp(end - RECENT, UTC).isoformat(timespec="milliseconds")
    chosen = {stage: table.filter(pc.greater(table.column("ended"), cutoff)) for stage, table in tables.items()}
    first = min((pc.min(table.column("begun")).as_py() for table in chosen.values() if table.num_rows), default=None)
    if first is None:
        return {}, 0.0, 0.0
    seconds = max(end - max(datetime.fromisoformat(first).timestamp(), end - RECENT), 1e-3)
    recent, work = {}, 0.0
    for stage, table in chosen.items():
        busy = pc.sum(table.column("seconds_busy")).as_py() or 0.0
        hours = (pc.sum(table.column("samples_in")).as_py() or 0) / SAMPLE_RATE / 3600
        work += busy
        if table.num_rows:
            recent[stage] = Recent(hours_per_hour=hours / seconds * 3600, busy_workers=busy / seconds)
    return recent, work, seconds


def _told(table: pa.Table) -> pa.Table:
    """The commits that say when they were made; those of earlier versions do not."""
    return table.filter(pc.is_valid(table.column("ended")))


def format_state(state: RunState) -> str:
    """What `lst status` prints: a table of the stages, then what is left to do."""
    lines = [f"{state.output}: {_headline(state)}", *_owner(state)]
    if state.stages:
        lines.append(f"{'stage':<12} {'done':>9} {'of':>9} {'audio h left':>13} {'h/h':>8} {'busy':>6}   rejected")
        for stage in state.stages:
            recent = state.recent.get(stage.stage)
            rate, busy = (f"{recent.hours_per_hour:.1f}", f"{recent.busy_workers:.1f}") if recent else ("-", "-")
            rejects = count_codes(stage.rejects, 4) or "-"
            lines.append(
                f"{stage.stage:<12} {stage.units_done:>9} {stage.units:>9} {stage.hours_left:>13.2f} "
                f"{rate:>8} {busy:>6}   {rejects}"
            )
    if state.others:
        lines.append(f"(of {state.spec}, the record used last; {state.others} more in specs/)")
    return "\n".join(lines)


def _headline(state: RunState) -> str:
    if state.state == "empty":
        return "nothing was begun here yet"
    now = state.estimate
    if not state.stages:
        return "running; it lists the source"
    parts = [
        {"dead": "not running; its owner died", "stopped": "not running; not finished"}.get(state.state, state.state)
    ]
    if state.state != "finished":
        parts += [f"{now.share_done:.0%} of the work done"] if now.share_done is not None else []
        parts += [f"{now.rate:.1f} h of audio/h"] if now.rate is not None else []
        if now.seconds_left is None or state.state == "running":
            parts.append(now.left)
        else:
            parts.append(f"{duration(now.seconds_left)} more at its last pace; run the same command again")
    return "; ".join(parts)


def _owner(state: RunState) -> list[str]:
    if state.owner is None:
        return []
    owner = state.owner
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
    verb = "ended" if owner.get("released") else "last heartbeat"
    return [
        f"owner        {owner['what']}, process {owner['pid']} on {owner['host']}, since {since}; "
        f"{verb} {duration(state.heartbeat_seconds or 0.0)} ago"
    ]
