"""Strips and charts: labels never overlap, and everything in a strip stands on one time axis."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.reporting.strips import Strip, StripWord, bar_chart, draw_strip, label_width, place_labels, unit_colours
from schemas.audio import PATCH_SILENCE, PATCH_WORD

HOP = 640


@given(
    gaps=st.lists(st.floats(0, 60), min_size=1, max_size=60),
    texts=st.lists(st.text(max_size=30), min_size=60, max_size=60),
)
def test_labels_never_overlap(gaps: list[float], texts: list[str]) -> None:
    middles = np.cumsum(gaps) + 58
    wanted = [(float(middle), label_width(text)) for middle, text in zip(middles, texts, strict=False)]
    placed = place_labels(wanted, right=float(middles[-1]) + 300)
    assert len(placed) == len(wanted)
    by_lane: dict[int, list[tuple[float, float]]] = {}
    for (lane, left), (_, width) in zip(placed, wanted, strict=True):
        by_lane.setdefault(lane, []).append((left, left + width))
        assert left >= 58
    assert sorted(by_lane) == list(range(len(by_lane)))
    for spans in by_lane.values():
        assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_a_strip_puts_everything_on_one_time_axis() -> None:
    strip = Strip(
        hop=HOP,
        first_second=1.0,
        audio=np.zeros(50 * HOP, np.float32),
        units=np.repeat(np.arange(5), 10),
        words=[StripWord(text="word", start=10, end=20, timing="aligned")],
        patches=[(0, 10, PATCH_SILENCE), (10, 20, PATCH_WORD), (20, 50, PATCH_SILENCE)],
        joins=[20],
    )
    drawing = draw_strip(strip, unit_colours(5, None), "strip")
    for title in ("unit 1, 1.40–1.80 s", "word  1.40–1.80 s, aligned", "word patch of 10 units, 1.40–1.80 s"):
        assert title in drawing
    boxes = boxes_by_class(drawing)
    assert boxes["aligned"] == pytest.approx(boxes["word"], abs=0.6)
    assert boxes["behind"] == pytest.approx(boxes["word"], abs=0.6)
    ticks = {
        label: float(x) for x, label in re.findall(r'<text x="([0-9.]+)" y="\d+" class="axis mid">(\d) s<', drawing)
    }
    assert list(ticks) == ["1", "2", "3"]
    left, right = boxes["behind"]
    per_second = ticks["2"] - ticks["1"]
    assert left == pytest.approx(ticks["1"] + 0.4 * per_second, abs=0.1)
    assert right == pytest.approx(ticks["1"] + 0.8 * per_second, abs=0.1)


def boxes_by_class(drawing: str) -> dict[str, tuple[float, float]]:
    """Class -> (left, right) of the first box of that class."""
    found: dict[str, tuple[float, float]] = {}
    for attributes in re.findall(r"<rect ([^>]*)>", drawing):
        values = dict(re.findall(r'(\w+)="([^"]*)"', attributes))
        if "class" in values:
            found.setdefault(values["class"], (float(values["x"]), float(values["x"]) + float(values["width"])))
    return found


def test_bars_are_as_high_as_their_values() -> None:
    drawing = bar_chart([1, 4, 0], ["one", "four & more", "none"], "word", level=2)
    assert re.findall(r'height="([0-9.]+)" class="word"', drawing) == ["25.00", "100.00", "0.00"]
    assert 'y1="50.00"' in drawing
    assert "four &amp; more" in drawing


def test_each_unit_has_a_colour_and_alike_units_look_alike() -> None:
    random = np.random.default_rng(0)
    centroids = random.normal(size=(60, 12)).astype(np.float32)
    centroids[1] = centroids[0] + 1e-4
    colours = unit_colours(60, centroids)
    assert len(colours) == 60

    def distance(a: int, b: int) -> float:
        parts = [[int(colours[index][at : at + 2], 16) for at in (1, 3, 5)] for index in (a, b)]
        return float(np.abs(np.subtract(*parts)).sum())

    others = [distance(0, index) for index in range(2, 60)]
    assert distance(0, 1) < np.quantile(others, 0.1)
    assert len(set(unit_colours(500, None))) == 500
