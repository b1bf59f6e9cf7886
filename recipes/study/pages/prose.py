"""Prose whose figures come from the records."""

from __future__ import annotations

import re
from typing import cast

import numpy as np

from recipes.study.design.settings import Control
from recipes.study.pages.figures import LOSSES, Figures
from recipes.study.pages.page import percent

ARM = "[a-z][a-z0-9.-]*"
FIGURE = re.compile(
    rf"\{{(?:([a-z0-9-]+)(?: at equal (data|clock))?(?: on ([a-z0-9-]+))?: )?({ARM})(?: less ({ARM}))? (bits|text|[ST]->[ST])"
    r"(?: (?!each|p\b)([a-z]+))?( over seeds| each| p)?\}"
)
"""A figure asked for: of a study beside this one, of an arm, less another, of what, on a rung, over seeds too, of each, or p."""


def filled(prose: str, figures: Figures, config: str) -> str:
    """`prose` with its figures, each with what it rests on; one of an arm without a run is a dash.

    `{static S->T}`, `{static S->S person}` and `{static bits}` are an arm's own; `{static less plain S->T}` is on the seeds that
    both have and holds for them; `{static less plain S->T over seeds}` takes all seeds of both as drawn, and
    `{static less plain S->T p}` is the p that goes with it; `{static S->S each}` are the seeds' own;
    `{NAME: ...}` is of the study NAME.yaml beside `config`, `{NAME at equal data: ...}` of its runs under that control,
    `{NAME on TASK: ...}` of what they prefer in TASK.
    """
    others: dict[str, Figures] = {}

    def figure(match: re.Match[str]) -> str:
        study, control, task, *asked = match.groups()
        where = f"{study} {control} {task}"
        if study and where not in others:
            others[where] = figures.sibling(config, study, cast(Control, control or "compute"), task)
        return _figure(others[where] if study else figures, *asked)

    return FIGURE.sub(figure, prose)


def _figure(figures: Figures, arm: str, base: str | None, what: str, rung: str | None, over: str | None) -> str:
    if base is not None and over == " p":
        found = figures.over_seeds(arm, base, what, rung)
        return "-" if found is None else f"{found.p:.2g}" if found.p >= 0.001 else "below 0.001"
    if base is not None and over == " over seeds":
        found = figures.over_seeds(arm, base, what, rung)
        mine, theirs = len(figures.seeds(arm)), len(figures.seeds(base))
        counts = f"{mine} seeds" if mine == theirs else f"{mine} against {theirs} seeds"
        unit = " %" if what in LOSSES else ""
        return "-" if found is None else f"{percent(found, '+')}{unit} ({counts})"
    seeds = [s for s in figures.seeds(arm) if base is None or (base, s) in figures.runs]
    if not seeds:
        return "-"
    if over == " each":
        own = [float(np.mean(list(figures.points(arm, [seed], what, rung).values()))) for seed in seeds]
        return ", ".join(f"{100 * value:.1f}" for value in own)
    rests = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    if what in LOSSES:
        if base is not None:
            shares = [figures.held(arm, s, LOSSES[what]) / figures.held(base, s, LOSSES[what]) - 1 for s in seeds]
            return f"{100 * np.mean(shares):+.1f} % ({rests})"
        digits = 2 if what == "bits" else 4
        return f"{np.mean([figures.held(arm, s, LOSSES[what]) for s in seeds]):.{digits}f} ({rests})"
    if base is None:
        return f"{percent(figures.preference(arm, seeds, what, rung))} ({rests})"
    return f"{percent(figures.difference(arm, base, seeds, what, rung), '+')} ({rests})"
