"""The brief page's picture: twin preference of every arm, direction by direction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from model.scoring.accuracy import ConfidenceInterval
from recipes.study.records.charts import pyplot, save


def draw_preferences(found: Mapping[str, Mapping[str, tuple[ConfidenceInterval, list[float]]]], out: Path) -> Path:
    """direction -> arm -> (over its seeds, of each seed) as bars of intervals with dots for single seeds; chance dotted."""
    plt = pyplot()
    arms = list(next(iter(found.values())))
    figure, axes = plt.subplots(
        1, len(found), figsize=(2.7 * len(found) + 1, 0.33 * len(arms) + 1.2), layout="constrained", sharey=True
    )
    for axis, (direction, rows) in zip(axes, found.items(), strict=True):
        for place, (interval, seeds) in enumerate(rows.values()):
            colour = "C1" if "bpe" in arms[place] else "C7" if arms[place].startswith("plain") else "C0"
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
