"""Audio files -> recordings, segments, transcripts, words, units, patches -> shards.

Runs on an embedded Ray, or on a cluster through `ray job submit`; resumes where the last run ended, whatever ended it.
Exit codes: 0 done, 4 more rejects than max_reject_rate, 2 a mistake in the spec, 75 stopped by a signal (run it again);
docs/commands.md has all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.cluster.places import local_or_url
from jobs.monitoring.logs import LOG, log_to_console
from jobs.runtime.cli import load_spec, spec_parser
from schemas.commands.cli import command
from schemas.commit import KINDS, SHARDS
from schemas.config import ConfigError
from schemas.errors import ExitCode
from schemas.spec import PipelineSpec, StagesSpec

if TYPE_CHECKING:
    from jobs.engine.run import Outcome
    from jobs.runtime.plan import Plan

CHOICES = tuple(StagesSpec.model_fields)
EXAMPLES = """  python jobs/tokenize_audio.py --config configs/demo.yaml
  python jobs/tokenize_audio.py --config configs/demo.yaml --dry-run
  python jobs/tokenize_audio.py --only transcripts stages.transcripts.beam_size=1
  ray job submit --address http://127.0.0.1:8265 --working-dir . -- python jobs/tokenize_audio.py --config configs/demo.yaml
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Plan, run what is pending and say how it went; `TRY_AGAIN` where partitions were set aside."""
    parser = spec_parser(__doc__, EXAMPLES)
    parser.add_argument("--dry-run", action="store_true", help="print the plan; of the source as it was last listed")
    parser.add_argument("--only", choices=CHOICES, metavar="STAGE", help=f"one stage: {', '.join(CHOICES)}")
    parser.add_argument("--until", choices=CHOICES, metavar="STAGE", help="all stages up to this one")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    parser.add_argument("--take-over", action="store_true", help="own the output though a run that is dead still does")
    given = parser.parse_args(arguments)
    spec = load_spec(given)
    last = given.only or given.until or SHARDS
    if given.dry_run:
        return show_plan(spec, last)
    log_to_console()
    source, output = local_or_url(spec.source.uri), local_or_url(spec.output)
    LOG.info("%s: listing %s, then looking up in %s what is done", given.config, source, output)
    from jobs.cluster.probing import probing
    from jobs.engine.run import run_plan
    from jobs.runtime.plan import make_plan, stages_until
    from jobs.store.lease import owned
    from jobs.store.store import Store

    store = Store(spec.output)
    store.check_layout()
    stages = (given.only,) if given.only else stages_until(spec, last)
    owner = owned(store, f"tokenize_audio --config {given.config}", given.take_over)
    with owner as lease, probing() as look_many:
        plan = make_plan(spec, until=last, look_many=look_many)
        if given.only:
            check_upstream(plan, given.only)
        lease.confirm()  # to forget what does not stand, and below to publish, is the owner's alone
        outcome = run_plan(plan, stages, lease, show_progress=False if given.no_progress else None)
        lease.confirm()
        return report(outcome, last)


def show_plan(spec: PipelineSpec, last: str) -> int:
    """Print what would be done."""
    from jobs.reporting.summary import format_plan, format_unreadable
    from jobs.runtime.plan import make_plan
    from jobs.store.records import has_inventory
    from jobs.store.store import Store
    from schemas.tables import Recording

    recorded = has_inventory(Store(spec.output), spec.source)
    plan = make_plan(spec, until=last, recorded=recorded)
    print(format_plan(plan))
    # Once every recording was looked into, the rejects say it, and better.
    if not plan.done[Recording.TABLE].all() and (problems := format_unreadable(plan)):
        print(problems)
    for sentence in plan.damaged:
        print(f"- {sentence}")
    return 0


def report(outcome: Outcome, last: str) -> int:
    """Say what the run did, and publish the index where everything is there; the exit code."""
    from jobs.reporting.summary import format_summary, too_many_rejects
    from jobs.runtime.published import publish
    from jobs.runtime.shard_index import write_index
    from jobs.store.records import index_name

    plan, spec = outcome.plan, outcome.plan.spec
    print(format_summary(outcome))
    if outcome.stopped:
        print("stopped by a signal; run the same command again to go on")
        return ExitCode.TRY_AGAIN
    if outcome.failed:
        print(f"{len(outcome.failed)} tasks were set aside (above); run the same command again to do them")
        return ExitCode.TRY_AGAIN
    if complaint := too_many_rejects(plan):
        print(f"error: {complaint}", file=sys.stderr)
        return ExitCode.NOT_ACCEPTED
    if last == SHARDS:
        index = write_index(plan)
        publish(plan)
        where = local_or_url(f"{spec.output}/shards/{index_name(spec.source)}.json")
        print(f"{where}: {index.num_shards} shards, {index.totals['samples']} samples, {index.totals['seconds']:.1f} s")
    return 0


def check_upstream(plan: Plan, stage: str) -> None:
    """Raises ConfigError if what a single stage stands on is not there."""
    # What restates labels is read by all, though no stage's results stand on it: a changed label waits there.
    restating = [name for name in plan.stages if KINDS[name].restates and name != stage]
    for above in dict.fromkeys([*plan.stages[stage].upstream, *restating]):
        if missing := plan.pending(above):
            raise ConfigError(
                f"--only {stage} needs {above}, which is not committed for {len(missing)} of {len(plan.partitions)} "
                f"partitions: run --until {above} first"
            )


if __name__ == "__main__":
    sys.exit(main())
