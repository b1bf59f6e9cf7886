"""The brief page's pictures: twin preference of every arm by direction, against operations, and less the plain baseline's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.scoring.accuracy import ConfidenceInterval
from recipes.study.records.charts import pyplot, save


def draw_preferences(
    found: Mapping[str, Mapping[str, tuple[ConfidenceInterval, list[float]]]], colours: Mapping[str, str], out: Path
) -> Path:
    """direction -> arm -> (over its seeds, of each seed) as bars of intervals in the arm's colour, with dots for single seeds;
    chance dotted."""
    plt = pyplot()
    arms = list(next(iter(found.values())))
    figure, axes = plt.subplots(
        1, len(found), figsize=(2.7 * len(found) + 1, 0.33 * len(arms) + 1.2), layout="constrained", sharey=True
    )
    for axis, (direction, rows) in zip(axes, found.items(), strict=True):
        for place, (interval, seeds) in enumerate(rows.values()):
            colour = colours[arms[place]]
            axis.plot([100 * interval.low, 100 * interval.high], [place, place], color=colour, linewidth=5, alpha=0.35)
            axis.plot(100 * interval.value, place, "|", color=colour, markersize=10, markeredgewidth=2)
            axis.plot([100 * seed for seed in seeds], [place] * len(seeds), ".", color="0.15", markersize=4)
        axis.axvline(50, color="0.5", linewidth=0.8, linestyle=":")
        axis.set(xlim=(45, 101), xlabel="twin preference, %")
        axis.set_title(direction.replace("->", "→"), fontsize=10)
        axis.grid(alpha=0.2, axis="x")
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].set_ylim(len(arms) - 0.4, -0.6)
    return save(figure, plt, out)


@dataclass(frozen=True)
class AtBudget:
    """An arm's preference in one direction at one budget."""

    tflop: float
    interval: ConfidenceInterval
    """Over pairs, of the seeds as they are."""
    seeds: list[float]
    """Each seed's own."""
    reach: tuple[float, float] | None
    """Over seeds and pairs alike, where there are three seeds or more: of two it is wider than the picture."""


def draw_operations(found: Mapping[str, Mapping[str, list[AtBudget]]], out: Path) -> Path:
    """direction -> arm -> its budgets, as a line of means with dots for single seeds; bars for what other seeds would give, of
    three or more. Chance dotted."""
    plt = pyplot()
    figure, axes = plt.subplots(1, len(found), figsize=(2.7 * len(found) + 0.6, 3.1), layout="constrained", sharey=True)
    for axis, (direction, arms) in zip(axes, found.items(), strict=True):
        for number, (arm, points) in enumerate(arms.items()):
            colour = f"C{number}"
            places = [point.tflop * (1 + 0.03 * (number - (len(arms) - 1) / 2)) for point in points]  # side by side
            axis.plot(places, [100 * p.interval.value for p in points], "-", color=colour, linewidth=1.6, label=arm)
            for place, point in zip(places, points, strict=True):
                if point.reach is not None:
                    axis.plot([place, place], [100 * end for end in point.reach], color=colour, linewidth=4, alpha=0.3)
                axis.plot([place] * len(point.seeds), [100 * s for s in point.seeds], ".", color=colour, markersize=5)
        budgets = sorted({round(point.tflop) for points in arms.values() for point in points})
        axis.axhline(50, color="0.5", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", xlabel="operations, TFLOP", xlim=(0.85 * budgets[0], 1.18 * budgets[-1]), ylim=(45, 101))
        axis.minorticks_off()
        axis.set_xticks(budgets, map(str, budgets))
        axis.set_title(direction.replace("->", "→"), fontsize=10)
        axis.grid(alpha=0.2, axis="y")
    axes[0].set_ylabel("twin preference, %")
    axes[-1].legend(frameon=False, fontsize=8, loc="lower right")
    return save(figure, plt, out)


@dataclass(frozen=True)
class Gain:
    """An arm less its baseline in one measure: a share (points, of a preference; of the baseline's, of a loss)."""

    value: float
    low: float | None
    """None: one seed of a loss has no interval."""
    high: float | None
    over_seeds: bool
    """Seeds and pairs are taken as drawn; else pairs alone."""


PANELS = {
    "S->S": ("S→S", "points, better →"),
    "S->T": ("S→T", "points, better →"),
    "T->S": ("T→S", "points, better →"),
    "T->T": ("T→T", "points, better →"),
    "bits": ("bits/s of speech", "← better, per cent"),
    "text": ("loss of text", "← better, per cent"),
}
"""What is shown of a gain, in order: title and axis."""


def draw_gains(found: Mapping[str, Mapping[str, Mapping[str, Gain]]], colours: Mapping[str, str], out: Path) -> Path:
    """group -> arm -> measure -> gain, a panel a measure and a row an arm in its colour. Filled dots and thick bars are over
    seeds and pairs, hollow dots and thin bars over the pairs of one seed. Preferences share an axis, losses another."""
    plt = pyplot()
    lines = [(group, arm) for group, arms in found.items() for arm in (None, *arms)]
    size = (1.95 * len(PANELS) + 1.6, 0.23 * len(lines) + 1.1)
    figure, axes = plt.subplots(1, len(PANELS), figsize=size, layout="constrained", sharey=True)
    for axis, (measure, (title, scale)) in zip(axes, PANELS.items(), strict=True):
        for place, (group, arm) in enumerate(lines):
            if arm is not None and measure in found[group][arm]:
                _draw_gain(axis, place, found[group][arm][measure], colours[arm])
        axis.axvline(0, color="0.4", linewidth=0.9, linestyle=":")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(scale, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.2, axis="x")
    for alike in (axes[:4], axes[4:]):
        ends = [end for axis in alike for end in axis.get_xlim()]
        for axis in alike:
            axis.set_xlim(min(ends), max(ends))
    axes[0].set_yticks(range(len(lines)), [group if arm is None else arm for group, arm in lines])
    for label, (_, arm) in zip(axes[0].get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if arm is None else "normal")
    axes[0].set_ylim(len(lines) - 0.4, -0.6)
    return save(figure, plt, out)


def _draw_gain(axis: Any, place: int, gain: Gain, colour: str) -> None:
    if gain.low is not None and gain.high is not None:
        thick = {"linewidth": 5, "alpha": 0.35} if gain.over_seeds else {"linewidth": 1}
        axis.plot([100 * gain.low, 100 * gain.high], [place, place], color=colour, solid_capstyle="butt", **thick)
    face = colour if gain.over_seeds else "white"
    axis.plot(100 * gain.value, place, "o", color=colour, markerfacecolor=face, markersize=4.5)
