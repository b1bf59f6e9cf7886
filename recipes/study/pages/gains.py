"""What arms gain over the plain baseline, study by study: the picture and the table with which the first screen begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model.scoring.accuracy import holm
from recipes.study.pages.figures import LOSSES, Figures
from recipes.study.pages.page import table
from recipes.study.records.preferences import PANELS, Gain, draw_gains

LIKELY = 0.05
"""Holm's p below which a cell of a table is set in bold."""


class Gains:
    """The arms of the studies that a study compares (`compared`), each less the plain baseline of its own study."""

    def __init__(self, figures: Figures, config: str) -> None:
        self.of: dict[str, Figures] = {}
        self.arms: dict[str, list[str]] = {}
        self.shown: dict[str, list[str]] = {}
        for part in figures.study.compared:
            self.of[part.title] = figures.sibling(config, part.study, task=part.task)
            self.shown[part.title] = [what for what in PANELS if part.task is None or what not in LOSSES]
            begun = self.of[part.title].begun()
            self.arms[part.title] = [arm for arm in part.arms if arm in begun]

    def draw(self, out: Path) -> Path:
        """The picture. Arms with patches are blue, with a unit BPE orange, with both purple."""
        found: dict[str, dict[str, Mapping[str, Gain]]] = {
            title: {arm: {what: _gain(self.of[title], arm, what)[0] for what in self.shown[title]} for arm in arms}
            for title, arms in self.arms.items()
        }
        colours = {name: colour for figures in self.of.values() for name, colour in figures.colours().items()}
        return draw_gains(found, colours, out)

    def pages(self) -> dict[str, str]:
        """title -> the study's page."""
        return {title: figures.study.page for title, figures in self.of.items()}

    def table(self, links: Mapping[str, str]) -> tuple[str, str]:
        """The same as figures with intervals and seeds, and a note on what is bold. `links`: title -> page.

        Bold: p below `LIKELY` after Holm's correction over all cells that have a p, those over seeds.
        """
        rows = [
            (title, arm, {what: _gain(self.of[title], arm, what) for what in self.shown[title]})
            for title, arms in self.arms.items()
            for arm in arms
        ]
        tested = {(*row[:2], what): p for row in rows for what, (_, p) in row[2].items() if p is not None}
        bold = _below(tested)
        lines = []
        for title, arm, cells in rows:
            shown = {what: _cell(gain) for what, (gain, _) in cells.items()}
            marked = [f"**{shown[what]}**" if (title, arm, what) in bold else shown.get(what, "-") for what in PANELS]
            figures = self.of[title]
            costs = [_times(figures, arm, what) for what in ("speech_seconds", "core_seconds")]
            lines.append([f"[{title}]({links[title]})", arm, *_seeds(figures, arm), *costs, *marked])
        header = ["units", "arm", "seeds", "plain's", "speech heard, x plain's", "core s, x plain's"]
        header += [f"{name}, {'points' if what not in LOSSES else '%'}" for what, (name, _) in PANELS.items()]
        column = {key: p for key, p in tested.items() if key[2] == "S->S"}
        alone = [f"{arm} ({title})" for title, arm, _ in sorted(_below(column), key=list(column).index)]
        note = (
            f"Bold: p below {LIKELY} after Holm's correction over the {len(tested)} cells over seeds; over the {len(column)} of "
            f"the column S→S alone it is below {LIKELY} for {', '.join(alone) or 'none'}. Other pages correct over their own "
            "cells."
        )
        return table(header, lines), note


def _below(tested: Mapping[tuple[str, str, str], float]) -> set[tuple[str, str, str]]:
    return {key for key, p in zip(tested, holm(list(tested.values())), strict=True) if p < LIKELY}


def _cell(gain: Gain) -> str:
    interval = "" if gain.low is None or gain.high is None else f" [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    return f"{100 * gain.value:+.1f}{interval}"


def _seeds(figures: Figures, arm: str) -> tuple[str, str]:
    """How many a difference rests on: all of both arms, or those that both have where one has a single one."""
    mine, base = (figures.seeds(name) for name in (arm, figures.study.baseline))
    if min(len(mine), len(base)) > 1:
        return str(len(mine)), str(len(base))
    both = str(len(set(mine) & set(base)))
    return both, both


def _times(figures: Figures, arm: str, what: str) -> str:
    """What the arm's runs consumed (seconds of speech, of a core) as a multiple of the baseline's; of runs on a core alone."""
    means = []
    for name in (arm, figures.study.baseline):
        runs = [figures.runs[name, seed] for seed in figures.seeds(name)]
        on_a_core = [run["consumed"][what] for run in runs if run["machine"].get("device", "cpu") == "cpu"]
        if not on_a_core:
            return "-"
        means.append(np.mean(on_a_core))
    return f"{means[0] / means[1]:.2f}"


def _gain(figures: Figures, arm: str, what: str) -> tuple[Gain, float | None]:
    """Over seeds with its p, where both arms have two at least; else over the pairs of the seeds that both have."""
    base = figures.study.baseline
    found = figures.over_seeds(arm, base, what)
    if found is not None:
        return Gain(found.value, found.low, found.high, over_seeds=True), found.p
    seeds = [seed for seed in figures.seeds(arm) if (base, seed) in figures.runs]
    if what in LOSSES:
        ratios = [figures.held(arm, s, LOSSES[what]) / figures.held(base, s, LOSSES[what]) - 1 for s in seeds]
        return Gain(float(np.mean(ratios)), None, None, over_seeds=False), None
    interval = figures.difference(arm, base, seeds, what)
    return Gain(interval.value, interval.low, interval.high, over_seeds=False), None
