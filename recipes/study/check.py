"""Check a finished study: every arm is there, budgets are equal, the page's figures are the records', a run can be made again.

    python -m recipes.study.check configs/experiments/study-demo.yaml --again static-s1-compute

Exit code 0, or 4 with a line for everything that does not hold.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from recipes.study.design.arms import budget_of, elements_of
from recipes.study.design.plan import WorkUnit, units
from recipes.study.design.settings import Study, load_study
from recipes.study.pages.page import Page
from recipes.study.pages.render import page_text
from recipes.study.rerun import compare, train_again
from schemas.commands.cli import Parser, command
from schemas.errors import ExitCode


def problems(study: Study, config: str) -> Iterator[str]:
    """A sentence for everything that does not hold."""
    page = Page(study, config)
    planned = list(units(study, page.facts))
    yield from (f"{unit.name} has no record" for unit in planned if not page.ledger.has(unit.name))
    for unit in planned:
        if unit.kind == "runs" and page.ledger.has(unit.name):
            yield from _problems_of_run(study, page, unit)
    written = Path(study.page).read_text(encoding="utf-8")
    if written != page_text(study, config):
        yield f"{study.page} is not what the records give now"
    for unit in planned:
        if unit.kind == "runs" and page.ledger.has(unit.name):
            held = page.ledger.read(unit.name)["measures"]["held_out"]
            for name in ("speech_bits_per_second", "text_nats_per_token"):
                if not re.search(rf"\| {held[name]:.{2 if 'bits' in name else 4}f} \|", written):
                    yield f"{study.page} lacks {unit.name}'s {name}"
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", written):
        file = Path(study.page).parent / picture
        if not file.is_file() or file.stat().st_size > 150_000:
            yield f"the picture {file} is missing or over 150 kB"


def _problems_of_run(study: Study, page: Page, unit: WorkUnit) -> Iterator[str]:
    record: dict[str, Any] = page.ledger.read(unit.name)
    mine, used = page.facts.arms[unit.arm], record["consumed"]
    budget = budget_of(study, page.facts, unit.arm, unit.control)
    step = 1 / (elements_of(budget, mine) / (study.training.elements * study.training.global_microbatches))
    if not 1 <= budget.progress(used) <= 1 + 2 * step:
        yield f"{unit.name} used {budget.progress(used):.3f} of its budget"
    if not used["flops"] > 0 or not used["core_seconds"] > 0:
        yield f"{unit.name} counted no operations or no seconds"
    for task in record["measures"]["tasks"]:
        groups = record["measures"]["tasks"][task]
        if not groups or not any("T->T" in found for found in groups.values()):
            yield f"{unit.name} scored nothing of {task}"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Check a finished study's records against each other; `NOT_ACCEPTED` where one fails."""
    parser = Parser(__doc__)
    parser.add_argument("config", help="a file of configs/experiments/")
    parser.add_argument(
        "--again", metavar="RUN", help="also train this run again from its record; it must come out the same"
    )
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    study = load_study(given.config, [])
    found = list(problems(study, given.config))
    if given.again:
        record = Page(study, given.config).runs[given.again]
        again = train_again(study, record, Path(study.runs_dir) / "again" / given.again)
        rows = compare(record, again).items()
        found += [f"{name} was {a:.10g} and is {b:.10g}" for name, (a, b, _) in rows if abs(a - b) > 1e-6 * abs(a)]
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    if not found:
        print(f"{study.page} holds: all runs are there, budgets are used up, figures are the records'")
    return ExitCode.NOT_ACCEPTED if found else ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
