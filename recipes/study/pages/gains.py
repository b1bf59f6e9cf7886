"""What arms gain over the plain baseline, study by study: the picture and the table with which the first screen begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model.scoring.accuracy import holm
from recipes.study.pages.figures import LOSSES, Figures
from recipes.study.pages.page import table
from recipes.study.records.preferences import Gain, draw_gains

MEASURES = {
    "S->S": "S→S, points",
    "S->T": "S→T, points",
    "T->S": "T→S, points",
    "T->T": "T→T, points",
    "bits": "bits/s of speech, %\n(less is better)",
    "text": "text loss, %\n(less is better)",
}
LIKELY = 0.05
"""Holm's p below which a cell of the table is set in bold."""


class Gains:
    """The arms of the studies that a study compares (`compared`), each less the plain baseline of its own study."""

    def __init__(self, figures: Figures, config: str) -> None:
        self.of: dict[str, Figures] = {}
        self.arms: dict[str, list[str]] = {}
        for part in figures.study.compared:
            self.of[part.title] = figures.sibling(config, part.study)
            begun = self.of[part.title].begun()
            self.arms[part.title] = [arm for arm in part.arms if arm in begun]

    def draw(self, out: Path) -> Path:
        """The picture."""
        found: dict[str, dict[str, Mapping[str, Gain]]] = {
            title: {arm: {what: _gain(self.of[title], arm, what)[0] for what in MEASURES} for arm in arms}
            for title, arms in self.arms.items()
        }
        return draw_gains(found, MEASURES, out)

    def pages(self) -> dict[str, str]:
        """title -> the study's page."""
        return {title: figures.study.page for title, figures in self.of.items()}

    def table(self, links: Mapping[str, str]) -> tuple[str, int]:
        """The same as figures with intervals and seeds, and how many cells have a p, those over seeds. `links`: title -> page.

        Bold: p below `LIKELY` after Holm's correction over these cells.
        """
        rows, ps = [], []
        for title, arms in self.arms.items():
            for arm in arms:
                figures = self.of[title]
                cells = [_gain(figures, arm, what) for what in MEASURES]
                ps += [p for _, p in cells if p is not None]
                rows.append(([f"[{title}]({links[title]})", arm, _seeds(figures, arm)], cells))
        adjusted = iter(holm(ps))
        lines = []
        for first, cells in rows:
            shown = []
            for gain, p in cells:
                interval = (
                    "" if gain.low is None or gain.high is None else f" [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
                )
                text = f"{100 * gain.value:+.1f}{interval}"
                shown.append(f"**{text}**" if p is not None and next(adjusted) < LIKELY else text)
            lines.append([*first, *shown])
        header = ["units", "arm", "seeds, plain's", *(name.replace("\n", " ") for name in MEASURES.values())]
        return table(header, lines), len(ps)


def _seeds(figures: Figures, arm: str) -> str:
    mine, base = (figures.seeds(name) for name in (arm, figures.study.baseline))
    return f"{len(mine)}, {len(base)}" if min(len(mine), len(base)) > 1 else str(len(set(mine) & set(base)))


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
