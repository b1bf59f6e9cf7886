"""What a run says at its end, and before it with --dry-run: told from the commits, so it is true of the data."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from jobs.runtime.places import local_or_url
from jobs.runtime.plan import Plan
from jobs.runtime.rejects import FIRST_FEW, allowance, few_lines
from jobs.runtime.run import Outcome
from pipeline.source.inventory import unreadable
from schemas.audio import SAMPLE_RATE
from schemas.commit import Commit

FUNNEL = {
    "recordings": "decoded",
    "segments": "speech",
    "transcripts": "transcribed",
    "words": "aligned",
    "units": "in units",
    "patches": "in patches",
    "shards": "in shards",
}


@dataclass(frozen=True, kw_only=True)
class StageTotals:
    """Sums over a stage's commits. Hours are of audio."""

    rows_in: int
    rows_out: int
    rows_rejected: int
    hours_in: float
    hours_out: float
    hours_rejected: float
    seconds_busy: float
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


def totals(commits: list[Commit]) -> StageTotals:
    """Sum commits of one stage."""
    rejects: Counter[str] = Counter()
    for commit in commits:
        rejects.update(commit.rejects_by_code)
    hour = SAMPLE_RATE * 3600
    return StageTotals(
        rows_in=sum(commit.rows_in for commit in commits),
        rows_out=sum(commit.rows_out for commit in commits),
        rows_rejected=sum(commit.rows_rejected for commit in commits),
        hours_in=sum(commit.samples_in for commit in commits) / hour,
        hours_out=sum(commit.samples_out for commit in commits) / hour,
        hours_rejected=sum(commit.samples_rejected for commit in commits) / hour,
        seconds_busy=sum(commit.seconds_busy for commit in commits),
        rejects=rejects,
    )


def format_plan(plan: Plan) -> str:
    """The plan as a table: stage, partitions, audio, committed, pending, fingerprint."""
    lines = [
        f"source    {plan.spec.source.uri}",
        f"output    {plan.spec.output}",
        f"inventory {sum(len(part.items) for part in plan.partitions)} files, {clock(plan.audio_hours())} of audio, "
        f"{len(plan.partitions)} partitions, {len(plan.groups)} shards",
        *_left_out(plan),
        "",
        f"{'stage':<12} {'partitions':>10} {'committed':>10} {'pending':>8}   fingerprint",
    ]
    for name, stage in plan.stages.items():
        total, pending = len(plan.units_of_work(name)), len(plan.pending(name))
        lines.append(f"{name:<12} {total:>10} {total - pending:>10} {pending:>8}   {stage.fingerprint[:16]}")
    return "\n".join([*lines, "", *format_estimate(plan)])


def _left_out(plan: Plan) -> list[str]:
    """Lines on files that are not listed."""
    return [f"not listed: {plan.not_listed}"] if plan.not_listed else []


def format_unreadable(plan: Plan) -> str:
    """Which files of the inventory will be rejected, as far as their first bytes tell; "" where none will."""
    items = [item for partition in plan.partitions for item in partition.items]
    problems = unreadable(plan.spec.source, items)
    if not problems:
        return ""
    shown = [f"  {uri}: {why}" for uri, why in list(problems.items())[:FIRST_FEW]]
    rest = [f"  and {len(problems) - FIRST_FEW} more"] if len(problems) > FIRST_FEW else []
    return "\n".join([f"cannot be read: {len(problems)} of {len(items)} files", *shown, *rest])


def format_estimate(plan: Plan) -> list[str]:
    """Hours still to be worked per stage, from the real-time factors of what this output has already committed.

    To estimate a large corpus: run a small slice of it with the same spec and output first (source.pattern picks one).
    """
    header = (
        f"{'stage':<12} {'audio left':>11} {'x real time':>12} {'worker hours':>13} {'workers':>8} {'wall hours':>11}"
    )
    lines, slowest, measured = [header], 0.0, True
    lengths = {item.name: sum(entry.seconds or 0.0 for entry in item.items) / 3600 for item in plan.partitions}
    lengths |= {group.name: sum(lengths[member] for member in group.partitions) for group in plan.groups}
    for name in plan.stages:
        left = sum(lengths[unit] for unit in plan.pending(name))
        factor = totals(plan.commits(name)).real_time_factor if plan.done[name] else None
        workers = plan.spec.resource(name).workers
        if factor is None:
            measured = False
            lines.append(f"{name:<12} {clock(left):>11} {'?':>12} {'?':>13} {workers:>8} {'?':>11}")
            continue
        slowest = max(slowest, left * factor / workers)
        work = left * factor
        lines.append(f"{name:<12} {clock(left):>11} {factor:>12.4f} {work:>13.2f} {workers:>8} {work / workers:>11.2f}")
    if measured:
        lines.append(f"stages overlap, so the slowest pool decides: about {slowest:.2f} wall hours to go")
    else:
        lines.append("? not measured yet: run a slice of the corpus with this spec and look again (docs/cluster.md)")
    return lines


def format_summary(outcome: Outcome) -> str:
    """The end of a run: the funnel of audio, rejects by code, and how hard each stage worked."""
    plan = outcome.plan
    stage_totals = {name: totals(plan.commits(name)) for name in plan.stages}
    lines = [f"{'audio in':<12} {clock(plan.audio_hours()):>10}"]
    for name, total in stage_totals.items():
        lines.append(f"{FUNNEL[name]:<12} {clock(total.hours_out):>10}   {total.rows_out} of {total.rows_in} rows")
    rejects = [(name, code, count) for name, total in stage_totals.items() for code, count in total.rejects.items()]
    lines.append(
        "rejected     " + (", ".join(f"{count} {code} ({name})" for name, code, count in rejects) or "nothing")
    )
    lines += few_lines(plan, f"lst rejects {local_or_url(plan.spec.output)}")
    lines += _left_out(plan)
    lines += ["", f"{'stage':<12} {'busy':>9} {'x real time':>12} {'busy share':>11}   this run"]
    for name, total in stage_totals.items():
        mine = [commit for commit in plan.commits(name) if commit.partition in outcome.worked_on.get(name, ())]
        busy = sum(commit.seconds_busy for commit in mine)
        span = (outcome.seconds - outcome.start_up_seconds) * plan.spec.resource(name).workers
        share = f"{busy / span:.0%}" if mine and span > 0 else "-"
        lines.append(
            f"{name:<12} {total.seconds_busy:>8.1f}s {total.real_time_factor:>12.4f} {share:>11}   "
            f"{len(mine)} of {len(plan.units_of_work(name))} partitions"
        )
    lines.append(f"wall time {outcome.seconds:.1f} s, of which {outcome.start_up_seconds:.1f} s until Ray was up")
    return "\n".join(lines)


def too_many_rejects(plan: Plan) -> str | None:
    """What is to be done if any stage rejected more than the spec allows, else None."""
    for name in plan.stages:
        total = totals(plan.commits(name))
        if total.reject_rate > plan.spec.max_reject_rate:
            codes = ", ".join(f"{count} {code}" for code, count in total.rejects.most_common())
            enough = min(1.0, math.ceil(total.reject_rate * 100 + 1e-9) / 100)
            early = "" if plan.is_complete() else "the run was ended before its end; "
            return (
                f"{name} rejected {total.reject_rate:.1%} of its input ({codes}), more than max_reject_rate "
                f"{plan.spec.max_reject_rate:.1%} ({allowance(plan.spec.max_reject_rate, total.rows_in)}): {early}mend the "
                f"input, or accept this with max_reject_rate={enough:g}, and run the same command again. What is done stays done"
            )
    return None


def clock(hours: float) -> str:
    """Hours as h:mm:ss."""
    seconds = round(hours * 3600)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
