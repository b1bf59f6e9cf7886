"""The page's pictures, drawn from records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.study.readings import Record, accuracy, tasks_in

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
    plt = _pyplot()
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
    return _save(figure, plt, out)


def draw_accuracies(runs: dict[str, Record], arms: Sequence[str], out: Path) -> Path | None:
    """Accuracy of each arm's compute-controlled runs by task and group, one panel a direction, 95 % intervals over items."""
    rungs = [(task, group) for task, groups in tasks_in(runs).items() for group in groups]
    chosen = [record for record in runs.values() if record["control"] == "compute"]
    if not rungs or not chosen:
        return None
    plt = _pyplot()
    figure, axes = plt.subplots(
        1, len(DIRECTIONS), figsize=(11, 0.55 * len(rungs) + 1.8), layout="constrained", sharey=True
    )
    seeds: dict[str, int] = {}
    for record in chosen:
        number, seeds[record["arm"]] = seeds.get(record["arm"], 0), seeds.get(record["arm"], 0) + 1
        shift = 0.8 * (arms.index(record["arm"]) + 0.3 * number) / len(arms) - 0.4
        for axis, direction in zip(axes, DIRECTIONS, strict=True):
            for place, (task, group) in enumerate(rungs):
                found = accuracy(record, task, direction, group)
                if found is None:
                    continue
                reach = [[found.value - found.low], [found.high - found.value]]
                style = {"fmt": "o", "markersize": 3, "linewidth": 0.9, "color": f"C{arms.index(record['arm'])}"}
                axis.errorbar(found.value, place + shift, xerr=reach, label=record["arm"], **style)
    for axis, direction in zip(axes, DIRECTIONS, strict=True):
        axis.axvline(0.5, color="0.6", linewidth=0.8, linestyle=":")
        axis.set(title=direction.replace("->", "→"), xlabel="accuracy", xlim=(0.3, 1.02))
        axis.grid(alpha=0.2, axis="x")
    axes[0].set_yticks(range(len(rungs)), [f"{task}: {group}" for task, group in rungs])
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
        unique.values(), unique.keys(), loc="outside lower center", ncols=len(unique), frameon=False, fontsize=8
    )
    return _save(figure, plt, out)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, plt: Any, out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100, metadata={"Software": None})
    plt.close(figure)
    return out
