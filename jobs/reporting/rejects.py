"""What a run rejected, and why: one line each, from the commits of its settings. Reads, and changes nothing but with --retry.

OUTPUT is the folder that a run writes to; its last run's settings are taken. With --config those of a spec are.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import get_args

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

from jobs.cluster.places import local_or_url
from jobs.runtime.cli import spec_of_run, spec_parser
from jobs.runtime.plan import Plan, make_plan, refresh
from jobs.runtime.rejects import one_line, read_rejects
from jobs.store.lease import owned
from schemas.commands.cli import command
from schemas.config import ConfigError
from schemas.spec import StagesSpec
from schemas.tables import Reject, RejectCode

EXAMPLES = """  lst rejects runs/demo
  lst rejects --config configs/demo.yaml --stage recordings --code decode_error
  lst rejects runs/demo --code stage_error --traceback
  lst rejects runs/demo --code stage_error --retry       then run the job again
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rejects asked for, or with --retry forget those that may pass."""
    parser = spec_parser(__doc__, EXAMPLES, takes_output=True, config=None)
    parser.add_argument(
        "--stage",
        choices=tuple(StagesSpec.model_fields),
        metavar="STAGE",
        help=f"of one stage alone: {', '.join(StagesSpec.model_fields)}",
    )
    parser.add_argument(
        "--code", choices=get_args(RejectCode), metavar="CODE", help="with one code alone, such as decode_error"
    )
    parser.add_argument("--traceback", action="store_true", help="with where the stage failed (stage_error)")
    parser.add_argument(
        "--retry", action="store_true", help="forget those that may pass another time; the next run does them"
    )
    given = parser.parse_args(arguments)
    plan = make_plan(spec_of_run(given, "lst rejects"), recorded=True)
    if given.stage is not None and given.stage not in plan.stages:
        raise ConfigError(f"{local_or_url(plan.spec.output)} has no stage {given.stage}, but {', '.join(plan.stages)}")
    rejects = [
        reject
        for reject in read_rejects(plan, [given.stage] if given.stage else None)
        if given.code in (None, reject.code)
    ]
    if given.retry:
        return _retry(plan, {(reject.stage, reject.id) for reject in rejects if reject.retriable})
    for reject in rejects:
        print(one_line(reject))
        if given.traceback and reject.traceback:
            print(reject.traceback)
    counts = Counter((reject.stage, reject.code) for reject in rejects)
    for (stage, code), count in counts.most_common():
        print(f"{count} {code} ({stage})", file=sys.stderr)
    if not rejects:
        of = (f" by {given.stage}" if given.stage else "") + (f" as {given.code}" if given.code else "")
        print(f"{local_or_url(plan.spec.output)}: nothing was rejected{of}")
    return 0


def _retry(plan: Plan, rejects: set[tuple[str, str]]) -> int:
    """Forget the commits that hold these rejects, wherever they could be taken over from, and what stands on them."""
    forgotten = 0
    with owned(plan.store, "rejects --retry"):
        refresh(plan, check_files=False)  # who owned the output until now may have put commits into other files
        for stage in plan.stages:
            wanted = {identity for name, identity in rejects if name == stage}
            names = _holding(plan, stage, wanted) if wanted else set()
            if names:
                numbers = [number for number, name in enumerate(plan.units_of_work(stage)) if name in names]
                forgotten += len(numbers)
                plan.logs[stage].drop(sorted(names))
                stages = list(plan.stages)
                for below in stages[stages.index(stage) + 1 : -1]:
                    plan.logs[below].drop([plan.unit(below, number) for number in numbers])
    then = "run the job again to do them" if rejects else "none may pass another time"
    print(f"{len(rejects)} rejects in {forgotten} partitions are forgotten: {then}")
    return 0


def _holding(plan: Plan, stage: str, wanted: set[str]) -> set[str]:
    """The units of a stage, of whatever partitions, that hold one of these rejects."""
    names = set()
    for commit in plan.logs[stage].commits():
        if "rejects" in commit.outputs and commit.outputs["rejects"].rows:
            try:
                table = plan.store.read_table(Reject, commit.outputs["rejects"])
            except FileNotFoundError:
                continue
            if any(reject.id in wanted for reject in table):
                names.add(commit.partition)
    return names


if __name__ == "__main__":
    sys.exit(main())
