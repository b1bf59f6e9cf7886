"""Tasks beyond a study's first: what its arms prefer there, beside the same rungs of the first task, by the same runs."""

from __future__ import annotations

from model.scoring.documents import DIRECTIONS
from recipes.study.pages.figures import Figures
from recipes.study.pages.page import percent, table


def further(figures: Figures) -> list[str]:
    """The sections' parts; none where all runs scored one task."""
    parts = []
    for task in figures.tasks():
        if task == figures.task:
            continue
        there = Figures(figures.study, figures.control, task)
        margins = there.margins(*next(iter(there.runs)), "S->S")
        rungs = sorted({rung for rung, _ in margins})
        here = Figures(figures.study, figures.control, figures.task, rungs)
        here.runs = {run: record for run, record in here.runs.items() if run in there.runs}
        note = (
            f"{len(margins)} pairs of {', '.join(rungs)}, beside the same rungs of {figures.task} by the same runs. Preferences "
            "in per cent, over pairs; less the plain baseline in points, seeds and pairs as drawn (of one seed: over pairs)."
        )
        parts += [f"## {task}", note, _preferences(there, task), _preferences(here, figures.task)]
    return parts


def _preferences(figures: Figures, task: str) -> str:
    rows = []
    for arm in figures.begun():
        seeds = figures.seeds(arm)
        rows.append([arm, str(len(seeds)), *(percent(figures.preference(arm, seeds, d)) for d in DIRECTIONS)])
    for arm in figures.begun():
        if arm != figures.study.baseline and (row := _less_baseline(figures, arm)):
            rows.append(row)
    return table([task, "seeds", *DIRECTIONS], rows)


def _less_baseline(figures: Figures, arm: str) -> list[str] | None:
    """None: no seed is both arms'."""
    base = figures.study.baseline
    both = [seed for seed in figures.seeds(arm) if seed in figures.seeds(base)]
    cells = []
    for direction in DIRECTIONS:
        found = figures.over_seeds(arm, base, direction)
        if found is None and not both:
            return None
        cells.append(percent(found or figures.difference(arm, base, both, direction), "+"))
    return [f"{arm} less {base}", f"{len(figures.seeds(arm))}, {len(figures.seeds(base))}", *cells]
