"""The page's pictures, drawn from records."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from recipes.study.records.readings import Record, accuracy, points, tasks_in

PANELS = {
    "held_speech_bits_per_second": "bits per second of speech",
    "held_text_nats_per_token": "nats per text token",
}
AXES = {"flops": "operations (FLOPs)", "elements": "elements (tokens and units)", "core_seconds": "seconds of one core"}
DIRECTIONS = ("T->T", "S->S", "T->S", "S->T")
SKIPPED = 0.1
"""Share of a curve at its start that is left out of the picture: the first steps would fill it."""


def draw_curves(runs: dict[str, Record], arms: Sequence[str], out: Path) -> Path:
    """Held-out losses of each arm's compute-controlled run of its first seed, against operations, elements and core seconds."""
    plt = pyplot()
    figure, axes = plt.subplots(len(PANELS), len(AXES), figsize=(11, 6.2), layout="constrained", sharey="row")
    first = {
        arm: next((r for r in runs.values() if (r["arm"], r["control"]) == (arm, "compute")), None) for arm in arms
    }
    for row, (y, label) in enumerate(PANELS.items()):
        for column, (x, name) in enumerate(AXES.items()):
            axis = axes[row][column]
            for number, arm in enumerate(arms):
                record = first[arm]
                if record is None:
                    continue
                found = [(p[x], p[y]) for p in record["curve"] if p.get(x) is not None and p.get(y) is not None]
                shown = found[int(SKIPPED * len(found)) :]
                if shown:
                    axis.plot(
                        *zip(*shown, strict=True), "o-", color=f"C{number}", markersize=2.5, linewidth=1.2, label=arm
                    )
            axis.grid(alpha=0.25)
            axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
            if row == len(PANELS) - 1:
                axis.set_xlabel(name)
            if column == 0:
                axis.set_ylabel(label)
    if axes[0][0].has_data():
        axes[0][0].legend(frameon=False, fontsize=8)
    return save(figure, plt, out)


def draw_accuracies(runs: dict[str, Record], arms: Sequence[str], out: Path) -> Path | None:
    """Accuracy of each arm's compute-controlled runs on each rung, one panel a direction (of the task that has most items in
    it), 95 % intervals over items."""
    chosen = [record for record in runs.values() if record["control"] == "compute"]
    shown = {direction: task for direction in DIRECTIONS if (task := _largest(chosen, direction)) is not None}
    if not shown:
        return None
    groups = tasks_in(runs)
    rungs = list(dict.fromkeys(group for task in shown.values() for group in groups[task]))
    begun = {record["arm"] for record in chosen}
    arms = [arm for arm in arms if arm in begun]
    plt = pyplot()
    size = (2.9 * len(shown) + 1, 0.16 * len(rungs) * len(arms) + 1.9)
    figure, axes = plt.subplots(1, len(shown), figsize=size, layout="constrained", sharey=True, squeeze=False)
    seeds: dict[str, int] = {}
    for record in chosen:
        number, seeds[record["arm"]] = seeds.get(record["arm"], 0), seeds.get(record["arm"], 0) + 1
        shift = 0.8 * (arms.index(record["arm"]) + 0.5 + 0.25 * number) / len(arms) - 0.4
        for axis, (direction, task) in zip(axes[0], shown.items(), strict=True):
            for place, group in enumerate(rungs):
                found = accuracy(record, task, direction, group) if group in groups[task] else None
                if found is not None:
                    reach = [[found.value - found.low], [found.high - found.value]]
                    style = {"fmt": "o", "markersize": 3, "linewidth": 0.9, "color": f"C{arms.index(record['arm'])}"}
                    axis.errorbar(found.value, place + shift, xerr=reach, label=record["arm"], **style)
    for axis, (direction, task) in zip(axes[0], shown.items(), strict=True):
        axis.axvline(0.5, color="0.5", linewidth=0.8, linestyle=":")
        axis.set(xlabel="accuracy", xlim=(0.0, 1.02))
        axis.set_title(f"{direction.replace('->', '→')}  ({task})", fontsize=9)
        axis.grid(alpha=0.2, axis="x")
    axes[0][0].set_yticks(range(len(rungs)), rungs)
    axes[0][0].set_ylim(len(rungs) - 0.4, -0.6)
    handles, labels = axes[0][0].get_legend_handles_labels()
    unique = {arm: handles[labels.index(arm)] for arm in arms if arm in labels}
    figure.legend(
        unique.values(), unique.keys(), loc="outside lower center", ncols=len(unique), frameon=False, fontsize=8
    )
    return save(figure, plt, out)


def _largest(records: Sequence[Record], direction: str) -> str | None:
    """The task with most items in a direction."""
    counts = {task: len(points(record, task, direction)) for record in records for task in record["measures"]["tasks"]}
    best = max(counts, key=lambda task: counts[task], default=None)
    return best if best is not None and counts[best] else None


def pyplot() -> Any:
    """Matplotlib without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, plt: Any, out: Path) -> Path:
    """Write a picture without date or version: equal records give equal bytes. With a palette, a third of the size."""
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return out
