"""What a run says at its end, and before it with --dry-run: told from the commits, so it is true of the data."""

from __future__ import annotations

import math

import pyarrow.compute as pc

from jobs.cluster.places import local_or_url
from jobs.cluster.pools import fit_pools, this_machine
from jobs.engine.run import Outcome
from jobs.runtime.accounting import totals
from jobs.runtime.plan import Plan
from jobs.runtime.rejects import FIRST_FEW, allowance, few_lines
from jobs.runtime.shard_index import belief
from jobs.store.provenance import provenance
from pipeline.source.inventory import unreadable
from schemas.arrow import to_rows
from schemas.commands.cli import on_one_line
from schemas.commit import SHARDS
from schemas.tables import (
    AudioQuality,
    InventoryItem,
    Patches,
    Recording,
    Segment,
    TextQuality,
    Transcript,
    Units,
    Word,
)

FUNNEL = {
    Recording.TABLE: "decoded",
    Segment.TABLE: "speech",
    AudioQuality.TABLE: "good sound",
    Transcript.TABLE: "transcribed",
    TextQuality.TABLE: "good text",
    Word.TABLE: "aligned",
    Units.TABLE: "in units",
    Patches.TABLE: "in patches",
    SHARDS: "in shards",
}


def format_plan(plan: Plan) -> str:
    """The plan as a table: stage, partitions, audio, committed, pending, fingerprint."""
    lines = [
        f"source    {plan.spec.source.uri}",
        f"output    {plan.spec.output}",
        f"inventory {plan.partitions.num_files} files, {clock(plan.audio_hours())} of audio, "
        f"{len(plan.partitions)} partitions, {len(plan.group_cuts) - 1} shards",
        *_left_out(plan),
        "",
        f"{'stage':<12} {'partitions':>10} {'committed':>10} {'pending':>8}   fingerprint",
    ]
    for name, stage in plan.stages.items():
        total, pending = len(plan.done[name]), int((~plan.done[name]).sum())
        lines.append(f"{name:<12} {total:>10} {total - pending:>10} {pending:>8}   {stage.fingerprint[:16]}")
    return "\n".join([*lines, "", *format_estimate(plan)])


def _left_out(plan: Plan) -> list[str]:
    """Lines on files that are not listed."""
    return [f"not listed: {plan.not_listed}"] if plan.not_listed else []


def format_unreadable(plan: Plan) -> str:
    """Which files of the inventory will be rejected, as far as their first bytes tell; "" where none will."""
    table = plan.partitions.table
    odd = table.filter(pc.or_(pc.is_valid(table.column("refused")), pc.is_null(table.column("seconds"))))
    problems = unreadable(plan.spec.source, to_rows(InventoryItem, odd))
    if not problems:
        return ""
    few = [f"  {on_one_line(f'{uri}: {why}')}" for uri, why in list(problems.items())[:FIRST_FEW]]
    rest = [f"  and {len(problems) - FIRST_FEW} more"] if len(problems) > FIRST_FEW else []
    return "\n".join([f"cannot be read: {len(problems)} of {table.num_rows} files", *few, *rest])


def format_estimate(plan: Plan) -> list[str]:
    """Hours still to be worked per stage, from the real-time factors of what this output has already committed.

    To estimate a large corpus: run a small slice of it with the same spec and output first (source.pattern picks one).
    """
    columns = (
        ("audio left", 11),
        ("x real time", 12),
        ("worker hours", 13),
        ("pool", 12),
        ("workers", 8),
        ("wall hours", 11),
    )
    lines, measured = [" ".join([f"{'stage':<12}", *(f"{name:>{width}}" for name, width in columns)])], True
    pools = fit_pools(plan.spec, tuple(plan.stages), this_machine())
    wall = dict.fromkeys((pool.name for pool in pools), 0.0)
    for name in plan.stages:
        pool = next(pool for pool in pools if name in pool.stages)
        left = float(plan.unit_hours(name)[~plan.done[name]].sum())
        factor = totals(plan, name).real_time_factor if plan.done[name].any() else None
        work = None if factor is None else left * factor
        measured = measured and work is not None
        wall[pool.name] += (work or 0.0) / pool.least
        numbers = f"{'?':>12} {'?':>13}" if work is None else f"{factor:>12.4f} {work:>13.2f}"
        hours = "?" if work is None else f"{work / pool.least:.2f}"
        lines.append(f"{name:<12} {clock(left):>11} {numbers} {pool.name:>12} {pool.least:>8} {hours:>11}")
    if measured:
        lines.append(
            f"pools work at the same time, so the slowest decides: about {max(wall.values()):.2f} wall hours to go"
        )
    else:
        lines.append("? not measured yet: run a slice of the corpus with this spec and look again (docs/cluster.md)")
    return lines


def format_summary(outcome: Outcome) -> str:
    """The end of a run: the funnel of audio, rejects by code, and how hard each stage worked."""
    plan = outcome.plan
    stage_totals = {name: totals(plan, name) for name in plan.stages}
    lines = [f"{'audio in':<12} {clock(plan.audio_hours()):>10}"]
    for name, total in stage_totals.items():
        lines.append(f"{FUNNEL[name]:<12} {clock(total.hours_out):>10}   {total.rows_out} of {total.rows_in} rows")
    rejects = [(name, code, count) for name, total in stage_totals.items() for code, count in total.rejects.items()]
    lines.append(
        "rejected     " + (", ".join(f"{count} {code} ({name})" for name, code, count in rejects) or "nothing")
    )
    if SHARDS in plan.stages and stage_totals[SHARDS].rows_out:  # counted in shards: nothing is known before the first
        told = belief(plan)
        seconds, doubtful = told["speech_uncovered"], told["doubtful_words"]
        lines.append(f"uncovered    {seconds:.1f} s of speech in no word (filler patches); {doubtful} doubtful words")
    lines += few_lines(plan, f"lst rejects {local_or_url(plan.spec.output)}")
    lines += _left_out(plan)
    lines += ["", f"{'stage':<12} {'busy':>9} {'x real time':>12} {'busy share':>11}   this run"]
    for name, total in stage_totals.items():
        worked_on = outcome.worked_on.get(name)
        mine = totals(plan, name, worked_on) if worked_on is not None and worked_on.any() else None
        span = (outcome.seconds - outcome.start_up_seconds) * outcome.workers.get(name, 1)
        share = f"{mine.seconds_busy / span:.0%}" if mine is not None and mine.commits and span > 0 else "-"
        taken = f", {mine.taken_over} files taken over" if mine is not None and mine.taken_over else ""
        lines.append(
            f"{name:<12} {total.seconds_busy:>8.1f}s {total.real_time_factor:>12.4f} {share:>11}   "
            f"{mine.commits if mine is not None else 0} of {len(plan.done[name])} partitions{taken}"
        )
    lines += version_notes(plan)
    lines.append(f"wall time {outcome.seconds:.1f} s, of which {outcome.start_up_seconds:.1f} s until Ray was up")
    return "\n".join(lines)


def version_notes(plan: Plan) -> list[str]:
    """A line for each stage whose commits were made with other versions than these: `strict_versions` would do them again."""
    lines = []
    current = provenance()["versions"]
    for name in plan.stages:
        made: set[str] = set()
        for table in plan.logs[name].select(plan.rows(name), ["provenance"]):
            versions = pc.extract_regex(table.column("provenance"), r'"versions": "(?P<versions>[^"]*)"')
            made.update(pc.unique(pc.struct_field(versions, "versions").drop_null()).to_pylist())
        for versions in sorted(made - {current}):
            changed = sorted(set(versions.split()) - set(current.split()))
            lines.append(f"{name}: some of it was made with {', '.join(changed) or 'fewer packages'}")
    return lines


def too_many_rejects(plan: Plan) -> str | None:
    """What is to be done if any stage rejected more than the spec allows, else None."""
    for name in plan.stages:
        total = totals(plan, name)
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
