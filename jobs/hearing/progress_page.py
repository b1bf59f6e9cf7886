"""What was evaluated while a run trained, for its page: curves and a table of scores over steps, and samples to hear by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from jobs.hearing.curves import curve_of, draw_curves
from jobs.reporting.page import mp3
from jobs.reporting.strips import clean
from model.evaluation.records import Evaluation

HEARD = 6
"""Steps of which samples are embedded: the first and the last, and some between."""
SHOWN = 12
"""Steps of the table of scores."""
CURVES = (
    ("Gradient norm", "before it is cut", ("grad_norm",)),
    ("Bits per byte of text", "text tokens alone", ("bits_per_byte_of_text",)),
    ("Bits per second of speech", "cross-entropy of units", ("bits_per_second_of_speech",)),
    ("Speed", "elements a second", ("elements_per_second",)),
)
"""(title, unit, columns of a row) of the small curves."""


def training_curves(rows: Sequence[Mapping[str, Any]]) -> str:
    """Curves beside the losses, and losses by source; empty where there is nothing."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("source_"))
    by_source = [(_of_source(name), "nats per target", (name,)) for name in names]
    drawn = []
    for title, unit, columns in (*CURVES, *by_source):
        curves = [curve_of(rows, column, "training", _colour(column)) for column in columns]
        if known := [curve for curve in curves if curve is not None]:
            drawn.append(draw_curves(title, unit, known))
    return f"<details><summary>More curves</summary><div class='pair'>{''.join(drawn)}</div></details>" if drawn else ""


def _of_source(column: str) -> str:
    name, modality = column.removeprefix("source_").rsplit("_loss_", 1)
    return f"Source {name}, {modality}"


def _colour(column: str) -> str:
    return "speech" if column.endswith("speech") else "text"


def evaluation_section(found: Sequence[tuple[Path, Evaluation]], normalisation: str) -> str:
    """The section; empty where nothing was evaluated."""
    if not found:
        return ""
    parts = ["<h2>While it trained</h2>", _scores(found, normalisation), _samples(found)]
    return f"<section>\n{''.join(parts)}</section>\n"


def _scores(found: Sequence[tuple[Path, Evaluation]], normalisation: str) -> str:
    """A curve per task and direction, and a table with their intervals."""
    cells = {
        (score.task, score.direction, evaluation.step): score
        for _, evaluation in found
        for score in evaluation.accuracies
        if score.normalisation == normalisation
    }
    lines = list(dict.fromkeys((task, direction) for task, direction, _ in cells))
    if not lines:
        return ""
    steps = [evaluation.step for _, evaluation in found]
    drawn = []
    for task, direction in lines:
        rows = [
            {"step": step, "value": 100 * cells[task, direction, step].value}
            for step in steps
            if (task, direction, step) in cells
        ]
        curve = curve_of(rows, "value", "accuracy", "speech" if direction.endswith("S") else "text")
        if curve is not None and len(rows) > 1:
            drawn.append(draw_curves(f"{task} {direction}", "% right", [curve]))
    shown = spread(steps, SHOWN)
    head = "".join(f"<th>step {step:,}</th>" for step in shown)
    body = ""
    for task, direction in lines:
        found_cells = [cells.get((task, direction, step)) for step in shown]
        columns = "".join(
            "<td></td>"
            if score is None
            else f"<td>{100 * score.value:.1f} <small>[{100 * score.low:.1f}, {100 * score.high:.1f}]</small></td>"
            for score in found_cells
        )
        items = max(score.items for place, score in cells.items() if place[:2] == (task, direction))
        body += f"<tr><td>{clean(task)} {clean(direction)}</td><td>{items}</td>{columns}</tr>"
    return (
        f'<div class="pair">{"".join(drawn)}</div><div class="scroll"><table><thead><tr><th>task</th><th>items</th>{head}</tr>'
        f'</thead><tbody>{body}</tbody></table></div><p class="note">Per cent of items whose right ending was the likeliest, '
        f"with 95 % intervals; endings compared by {clean(normalisation)}.</p>"
    )


def _samples(found: Sequence[tuple[Path, Evaluation]]) -> str:
    """Each prompt with what was said to it, step by step."""
    heard = set(spread([evaluation.step for _, evaluation in found], HEARD))
    chosen = [(folder, evaluation) for folder, evaluation in found if evaluation.step in heard and evaluation.samples]
    parts = []
    for number, first in enumerate(chosen[-1][1].samples if chosen else ()):
        lines = []
        for folder, evaluation in chosen:
            if number >= len(evaluation.samples) or evaluation.samples[number].prompt != first.prompt:
                continue
            sample = evaluation.samples[number]
            sound = "" if sample.in_speech is None else _sound(folder / sample.in_speech)
            lines.append(
                f'<p class="said"><span>step {evaluation.step:,}</span><q>{clean(sample.in_text or "(nothing)")}</q>{sound}</p>'
            )
        begins = f" (its first {first.prompt_seconds:.1f} s)" if first.prompt_seconds else ""
        parts.append(f"<h3>“{clean(first.prompt or '(no word)')}”{begins}</h3>{''.join(lines)}")
    note = '<p class="note">In quotes: the continuation in text. Sounds: the prompt and its continuation in speech.</p>'
    return "".join(parts) + (note if parts else "")


def _sound(file: Path) -> str:
    try:
        samples, _ = soundfile.read(file, dtype="float32")
    except (OSError, soundfile.SoundFileError):
        return "<small>the sound is gone</small>"
    return f'<audio controls preload="none" src="data:audio/mpeg;base64,{mp3(samples)}"></audio>'


def spread(steps: Sequence[int], count: int) -> list[int]:
    """The first, the last and others spread evenly between, `count` in all."""
    if len(steps) <= count:
        return list(steps)
    return [steps[int(place)] for place in np.linspace(0, len(steps) - 1, count).round()]
