"""Drawings for the report, as SVG text. Colours are classes of the page's style sheet, so they follow light and dark.

Only strips carry text inside the SVG, at a fixed size: charts stretch to the page's width, and their words are HTML.
"""

from __future__ import annotations

import colorsys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

import numpy as np

from jobs.reporting.terminal import printable
from schemas.audio import PATCH_SILENCE, PATCH_WORD, SAMPLE_RATE

PIXELS_PER_SECOND = 132
GUTTER, MARGIN = 58, 16
LANE, BOX, WAVE, UNITS, PATCHES, AXIS = 15, 13, 72, 26, 13, 22
GAP = 7
FONT = 12
LABEL_CHARS = 24
PATCH_CLASSES = {PATCH_WORD: "word", PATCH_SILENCE: "silence"}
GOLDEN_RATIO = 0.618034
LATIN = 0x24F
CHAR_WIDTHS = ((0.32, "ijlI.,:;'’| "), (0.42, "frt!()[]-"), (0.99, "mwMWÆŒ…@%"), (0.56, "cszkxyv"))


@dataclass(frozen=True, kw_only=True)
class StripWord:
    """A word in a window: frames [start, end) from the window's start, and how its time was found."""

    text: str
    start: int
    end: int
    timing: str


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A window of a sample, all in frames from the window's start."""

    hop: int
    first_second: float
    """Where in the passage the window begins."""
    audio: np.ndarray | None
    """float32 [num_frames * hop]; None where the audio could not be had."""
    units: np.ndarray
    """uint16 [num_frames]"""
    words: Sequence[StripWord]
    patches: Sequence[tuple[int, int, int]]
    """(start, end, kind), tiling the window."""
    joins: Sequence[int]
    """Frames at which another segment of the recording begins."""
    join_note: str = "a new segment of the recording begins here"
    """What such a line says when it is pointed at."""

    def seconds(self, frame: int) -> float:
        """A frame as seconds from the passage's start."""
        return self.first_second + frame * self.hop / SAMPLE_RATE


def unit_colours(num_units: int, centroids: np.ndarray | None) -> list[str]:
    """A colour per unit. With centroids [num_units, dim], units that sound alike look alike.

    The hue is the rank of the angle in the plane of the first two principal components (ranks spread evenly, whatever
    the shape of the cloud), the lightness the rank along the third.
    """
    if centroids is None or len(centroids) != num_units or num_units < 4 or centroids.shape[1] < 3:
        hues = [(index * GOLDEN_RATIO) % 1.0 for index in range(num_units)]
        lights = [0.45 + 0.18 * ((index * 7) % 5) / 4 for index in range(num_units)]
    else:
        scaled = (centroids - centroids.mean(axis=0)) / (centroids.std(axis=0) + 1e-9)
        left, values, _ = np.linalg.svd(scaled, full_matrices=False)
        planes = left[:, :3] * values[:3]
        hues = (_ranks(np.arctan2(planes[:, 1], planes[:, 0])) / num_units).tolist()
        lights = (0.40 + 0.28 * _ranks(planes[:, 2]) / num_units).tolist()
    return [_hex(hue, light) for hue, light in zip(hues, lights, strict=True)]


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def _hex(hue: float, light: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, light, 0.52))


def bar_chart(values: Sequence[float], titles: Sequence[str], fills: Sequence[str] | str, level: float = 0.0) -> str:
    """Bars that fill the width they are given. `fills`: one class for all, or a colour per bar; `level`: a dashed line."""
    top = max([*values, level, 1e-9])
    bars = []
    for index, (value, title) in enumerate(zip(values, titles, strict=True)):
        height = 100 * value / top
        fill = f'class="{fills}"' if isinstance(fills, str) else f'fill="{fills[index]}"'
        bars.append(
            f'<g><title>{clean(title)}</title><rect x="{index}" y="0" width="1" height="100" class="hit"/>'
            f'<rect x="{index + 0.06:g}" y="{100 - height:.2f}" width="0.88" height="{height:.2f}" {fill}/></g>'
        )
    if level:
        y = 100 - 100 * level / top
        bars.append(f'<line x1="0" x2="{len(values)}" y1="{y:.2f}" y2="{y:.2f}" class="level"/>')
    return f'<svg class="chart" viewBox="0 0 {len(values)} 100" preserveAspectRatio="none" role="img">{"".join(bars)}</svg>'


def draw_strip(strip: Strip, colours: Sequence[str], label: str) -> str:
    """A window as one SVG at a fixed scale: labels, word boxes, waveform, units, patches, a time axis in seconds."""
    scale = _Scale(strip)
    lanes = place_labels([(scale.middle(word), label_width(shorten(word.text))) for word in strip.words], scale.right)
    words = (max((lane for lane, _ in lanes), default=0) + 1) * LANE + 4
    wave = words + BOX + GAP
    units = wave + WAVE + GAP
    patches = units + UNITS + GAP
    axis = patches + (PATCHES if strip.patches else 0) + 4
    parts = [
        _word_backgrounds(strip, scale, words, axis),
        _waveform(strip, scale, wave),
        _units(strip, scale, units, colours),
        _patches(strip, scale, patches, words),
        _words(strip, scale, words, lanes),
        _joins(strip, scale, words, axis),
        _axis(strip, scale, axis),
    ]
    rows = (
        ("words", words + BOX - 3, strip.words),
        ("audio", wave + WAVE // 2 + 4, True),
        ("units", units + UNITS // 2 + 4, True),
        ("patches", patches + PATCHES - 3, strip.patches),
    )
    names = "".join(f'<text x="{GUTTER - 10}" y="{y}" class="row">{name}</text>' for name, y, shown in rows if shown)
    width, height = scale.right + MARGIN, axis + AXIS
    return (
        f'<svg class="strip" width="{width:g}" height="{height}" viewBox="0 0 {width:g} {height}" role="img" '
        f'aria-label="{clean(label)}">{names}{"".join(parts)}</svg>'
    )


class _Scale:
    def __init__(self, strip: Strip):
        self.per_frame = PIXELS_PER_SECOND * strip.hop / SAMPLE_RATE
        self.right = self.x(len(strip.units))

    def x(self, frame: float) -> float:
        return round(GUTTER + frame * self.per_frame, 2)

    def middle(self, word: StripWord) -> float:
        return (self.x(word.start) + self.x(word.end)) / 2


def clean(text: str) -> str:
    """A text from outside as HTML."""
    return escape(printable(text))


def shorten(text: str) -> str:
    """A word as a label: printable, at most LABEL_CHARS long."""
    clean = printable(text)
    return clean if len(clean) <= LABEL_CHARS else clean[: LABEL_CHARS - 1] + "…"


def label_width(text: str) -> float:
    """Pixels that a label takes at most: by the widths of DejaVu Sans, which is wider than other fonts."""
    widths = (_char_width(char) for char in text if not unicodedata.combining(char))
    return round(FONT * sum(widths), 1)


def _char_width(char: str) -> float:
    if unicodedata.east_asian_width(char) in "WF":
        return 1.0
    for width, chars in CHAR_WIDTHS:
        if char in chars:
            return width
    return 0.78 if char.isupper() or ord(char) > LATIN else 0.64


def place_labels(wanted: Sequence[tuple[float, float]], right: float) -> list[tuple[int, float]]:
    """Lane and left edge of each label (middle, width), given in order: no two overlap; lane 0 is nearest to the boxes."""
    ends: list[float] = []
    placed = []
    for middle, width in wanted:
        left = max(GUTTER, min(middle - width / 2, right + MARGIN - 2 - width))
        lane = next((index for index, end in enumerate(ends) if left >= end), len(ends))
        if lane == len(ends):
            ends.append(0.0)
        ends[lane] = left + width + 5
        placed.append((lane, round(left, 2)))
    return placed


def _words(strip: Strip, scale: _Scale, top: int, lanes: Sequence[tuple[int, float]]) -> str:
    """Boxes and leaders first, labels over them: a leader may run behind the label of a lower lane."""
    boxes, labels = [], []
    for word, (lane, left) in zip(strip.words, lanes, strict=True):
        x, width = scale.x(word.start), max(scale.x(word.end) - scale.x(word.start), 1.0)
        base = top - 5 - lane * LANE
        text = shorten(word.text)
        title = f"{word.text}  {strip.seconds(word.start):.2f}–{strip.seconds(word.end):.2f} s, {word.timing}"
        middle = scale.middle(word)
        boxes.append(
            f'<line x1="{middle:g}" x2="{middle:g}" y1="{base + 3}" y2="{top}" class="leader"/>'
            f'<rect x="{x + 0.5:g}" y="{top}" width="{max(width - 1, 1):g}" height="{BOX}" rx="2" class="{word.timing}">'
            f"<title>{clean(title)}</title></rect>"
        )
        width = label_width(text)
        # Fonts for other scripts may be wider than the estimate: there the width is enforced.
        fit = (
            f' textLength="{width:g}" lengthAdjust="spacingAndGlyphs"' if max(map(ord, text), default=0) > LATIN else ""
        )
        labels.append(f'<text x="{left + width / 2:g}" y="{base}" class="label"{fit}>{clean(text)}</text>')
    return "".join(boxes + labels)


def _word_backgrounds(strip: Strip, scale: _Scale, top: int, bottom: int) -> str:
    return "".join(
        f'<rect x="{scale.x(start):g}" y="{top}" width="{scale.x(end) - scale.x(start):.2f}" height="{bottom - top}" '
        f'class="behind"/>'
        for start, end, kind in strip.patches
        if kind == PATCH_WORD
    )


def _waveform(strip: Strip, scale: _Scale, top: int) -> str:
    """The envelope: lowest and highest sample of each pixel column, scaled to the window's own peak."""
    middle = top + WAVE / 2
    if strip.audio is None or not len(strip.audio):
        return f'<text x="{GUTTER + 8}" y="{middle + 4:g}" class="axis">the audio is not in the shard, nor at its source</text>'
    columns = min(round(scale.right - GUTTER), len(strip.audio))
    edges = np.linspace(0, len(strip.audio), columns, endpoint=False).astype(np.int64)
    gain = (WAVE / 2) / max(float(np.abs(strip.audio).max()), 1e-4)
    high = middle - gain * np.maximum.reduceat(strip.audio, edges)
    low = middle - gain * np.minimum.reduceat(strip.audio, edges)
    x = GUTTER + (np.arange(columns) + 0.5) * (scale.right - GUTTER) / columns
    outline = np.stack([np.concatenate([x, x[::-1]]), np.concatenate([high - 0.4, low[::-1] + 0.4])], axis=1)
    tenths = np.rint(10 * outline).astype(np.int64)  # steps between rounded points: they are shorter, and do not drift
    start, *steps = (f"{across / 10:g} {down / 10:g}" for across, down in (tenths[0], *np.diff(tenths, axis=0)))
    return f'<path d="M{start}l{" ".join(steps)}Z" class="wave"/>'


def _units(strip: Strip, scale: _Scale, top: int, colours: Sequence[str]) -> str:
    """One box per run of equal units; hovering tells which unit and when."""
    boxes, start = [], 0
    for unit, run in groupby(strip.units.tolist()):
        end = start + len(list(run))
        title = f"unit {unit}, {strip.seconds(start):.2f}–{strip.seconds(end):.2f} s"
        boxes.append(
            f'<rect x="{scale.x(start):g}" y="{top}" width="{scale.x(end) - scale.x(start) - 0.3:.2f}" height="{UNITS}" '
            f'fill="{colours[unit]}"><title>{title}</title></rect>'
        )
        start = end
    return "".join(boxes)


def _patches(strip: Strip, scale: _Scale, top: int, line_top: int) -> str:
    boxes = []
    for start, end, kind in strip.patches:
        x = scale.x(start)
        name = PATCH_CLASSES.get(kind, "filler")
        length = f"{end - start} unit{'s' if end - start > 1 else ''}"
        title = f"{name} patch of {length}, {strip.seconds(start):.2f}–{strip.seconds(end):.2f} s"
        boxes.append(
            f'<rect x="{x + 0.5:g}" y="{top}" width="{max(scale.x(end) - x - 1, 1):.2f}" height="{PATCHES}" rx="2" '
            f'class="{name}"><title>{title}</title></rect>'
            f'<line x1="{x:g}" x2="{x:g}" y1="{line_top}" y2="{top + PATCHES}" class="bound"/>'
        )
    return "".join(boxes)


def _joins(strip: Strip, scale: _Scale, top: int, bottom: int) -> str:
    return "".join(
        f'<line x1="{scale.x(frame):g}" x2="{scale.x(frame):g}" y1="{top - 2}" y2="{bottom}" class="join">'
        f"<title>{clean(strip.join_note)}</title></line>"
        for frame in strip.joins
    )


def _axis(strip: Strip, scale: _Scale, top: int) -> str:
    """Ticks every 0.2 s, seconds of the passage at every whole one."""
    last = strip.seconds(len(strip.units))
    line, labels = [f"M{GUTTER} {top}H{scale.right:g}"], []
    for fifth in range(int(np.ceil(strip.first_second * 5 - 1e-6)), int(last * 5 + 1e-6) + 1):
        x = round(GUTTER + (fifth / 5 - strip.first_second) * PIXELS_PER_SECOND, 2)
        whole = fifth % 5 == 0
        line.append(f"M{x:g} {top}v{6 if whole else 3}")
        if whole:
            labels.append(f'<text x="{x:g}" y="{top + 18}" class="axis mid">{fifth // 5} s</text>')
    return f'<path d="{"".join(line)}" class="tick"/>{"".join(labels)}'
