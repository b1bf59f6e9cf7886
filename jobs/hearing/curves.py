"""Loss curves as SVG text, with the scale in HTML around them: they stretch to the page's width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.reporting.strips import clean

POINTS = 300
"""Points of a curve, at most: means over equal runs of steps."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values over steps."""

    name: str
    css: str
    steps: np.ndarray
    values: np.ndarray
    dots: bool = False


def curve_of(rows: Sequence[Mapping[str, Any]], key: str, name: str, css: str, dots: bool = False) -> Curve | None:
    """The values that the rows of a metrics.jsonl have under `key`, those that are no numbers (a step that was left out) apart;
    None where there are none."""
    known = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    pairs = [(step, value) for step, value in known if math.isfinite(value)]
    if not pairs:
        return None
    steps, values = (np.array(column, float) for column in zip(*pairs, strict=True))
    if not dots and len(steps) > POINTS:
        parts = np.array_split(np.arange(len(steps)), POINTS)
        steps, values = (np.array([column[part].mean() for part in parts]) for column in (steps, values))
    return Curve(name=name, css=css, steps=steps, values=values, dots=dots)


def draw_curves(title: str, unit: str, curves: Sequence[Curve]) -> str:
    """A figure: the curves over a common scale that begins at zero, with room for the marks at its ends."""
    last = max(float(curve.steps[-1]) for curve in curves)
    top = max(float(curve.values.max()) for curve in curves) or 1.0
    marks = []
    for curve in curves:
        x, y = 100 * curve.steps / last, 100 - 100 * curve.values / top
        if curve.dots:
            marks += [
                f'<rect x="{a - 0.6:.2f}" y="{b - 1.6:.2f}" width="1.2" height="3.2" class="{curve.css}"/>'
                for a, b in zip(x, y, strict=True)
            ]
        else:
            path = "L".join(f"{a:.2f} {b:.2f}" for a, b in zip(x, y, strict=True))
            marks.append(f'<path d="M{path}" class="curve {curve.css}"/>')
    ends = ", ".join(f"{curve.name} {curve.values[-1]:.2f}" for curve in curves)
    return (
        f'<figure class="plot"><figcaption>{clean(title)} <span>({clean(unit)}; last: {clean(ends)})</span></figcaption>'
        f'<span class="top">{top:.2f}</span>'
        f'<svg class="chart" viewBox="-1 -3 102 103" preserveAspectRatio="none" role="img">{"".join(marks)}</svg>'
        f'<span class="top">0 … step {last:.0f}</span></figure>'
    )
