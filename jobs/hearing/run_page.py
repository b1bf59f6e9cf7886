"""A training run as one HTML page with sound: its losses, what may be expected of it, and what it says to prompts.

Inline style and SVG, no network; one script, named by its hash, moves the play head. All that came from outside is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from jobs.hearing.curves import Curve, curve_of, draw_curves
from jobs.hearing.listening import DemoPrompt, Said
from jobs.hearing.progress_page import evaluation_section, training_curves
from jobs.reporting.page import mp3
from jobs.reporting.strips import GUTTER, PIXELS_PER_SECOND, Strip, StripWord, clean, draw_strip
from model.evaluation.records import Evaluation

PLAY_HEAD = """
for (const figure of document.querySelectorAll('figure.heard')) {
  const sound = figure.querySelector('audio'), head = figure.querySelector('.head'), view = figure.querySelector('.scroll');
  const { gutter, speed } = figure.dataset;
  const move = () => {
    const x = sound.currentTime * speed;
    head.style.transform = `translateX(${x}px)`;
    if (x + +gutter > view.scrollLeft + view.clientWidth - 20) view.scrollLeft = x;
    if (!sound.paused) requestAnimationFrame(move);
  };
  for (const name of ['play', 'seeked', 'timeupdate']) sound.addEventListener(name, move);
  figure.querySelector('svg').addEventListener('click', event => {
    sound.currentTime = Math.max(0, (event.offsetX - gutter) / speed);
    sound.play();
  });
}
"""
STYLE = """
figure.heard { border-top: 1px solid var(--line); padding: 12px 0; }
figure.heard .stage-of-head { position: relative; width: max-content; }
figure.heard svg { cursor: pointer; }
.head { position: absolute; top: 0; bottom: 24px; width: 2px; background: var(--lost); pointer-events: none; }
.curve { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; }
path.text { stroke: var(--interpolated); } path.speech { stroke: var(--kept); }
rect.text { fill: var(--interpolated); } rect.speech { fill: var(--kept); }
figure.heard audio { margin: 2px 0 4px; }
.expect + .tiles { margin-top: 12px; }
.tiles + .pair { margin-top: 18px; }
.said { justify-content: flex-start; align-items: baseline; padding-bottom: 8px; }
.said span { flex: none; color: var(--muted); }
.expect { font-size: 16px; border-left: 4px solid var(--interpolated); padding-left: 12px; }
"""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run as the page shows it."""

    label: str
    facts: tuple[tuple[str, str], ...]
    """(value, name) of the tiles."""
    rows: Sequence[Mapping[str, Any]]
    """Of metrics.jsonl."""
    expectation: str | None
    evaluations: Sequence[tuple[Path, Evaluation]] = ()
    """(folder, record) of each that was made while it trained."""
    normalisation: str = "sum"
    """What endings are compared by."""


@dataclass(frozen=True, kw_only=True)
class PromptAnswers:
    """A prompt and what every run says to it."""

    prompt: DemoPrompt
    said: Sequence[Said]


def render_run(
    title: str,
    runs: Sequence[RunFacts],
    answered: Sequence[PromptAnswers],
    hop: int,
    colours: Sequence[str],
    command: str,
    introduction: Sequence[str] = (),
    voices: str = "",
) -> str:
    """The page; `introduction` is paragraphs, `voices` a sentence on who speaks."""
    style = files("jobs.reporting").joinpath("report.css").read_text(encoding="utf-8") + STYLE
    digest = base64.b64encode(hashlib.sha256(PLAY_HEAD.encode()).digest()).decode()
    security = f"default-src 'none'; style-src 'unsafe-inline'; media-src data:; script-src 'sha256-{digest}'"
    body = "".join(f"<p>{clean(paragraph)}</p>\n" for paragraph in introduction)
    body += "".join(_run(run) for run in runs) + "".join(_answers(item, hop, colours) for item in answered)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{clean(security)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{clean(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{clean(title)}</h1>\n{body}"
        f"<footer>Written by <code>{clean(command)}</code>. {clean(voices)}</footer>\n"
        f"</main>\n<script>{PLAY_HEAD}</script>\n</body>\n</html>\n"
    )


def _run(run: RunFacts) -> str:
    tiles = "".join(f"<div><b>{clean(value)}</b><span>{clean(name)}</span></div>" for value, name in run.facts)
    expectation = f'<p class="expect">{clean(run.expectation)}</p>' if run.expectation else ""
    text = _known(
        curve_of(run.rows, "loss_text", "training", "text"),
        curve_of(run.rows, "validation_loss_text", "held out", "text", dots=True),
    )
    speech = _known(
        curve_of(run.rows, "loss_speech", "training", "speech"),
        curve_of(run.rows, "validation_loss_speech", "held out", "speech", dots=True),
    )
    plots = [("Text", "nats per token", text), ("Speech", "nats per unit", speech)]
    drawn = "".join(draw_curves(name, unit, curves) for name, unit, curves in plots if curves)
    losses = (
        f'<div class="pair">{drawn}</div>\n<p class="note">Lines: training; marks: held-out samples.</p>'
        if drawn
        else ""
    )
    return (
        f'<section>\n<h2>{clean(run.label)}</h2>\n{expectation}<div class="tiles">{tiles}</div>\n{losses}'
        f"{training_curves(run.rows)}</section>\n{evaluation_section(run.evaluations, run.normalisation)}"
    )


def _known(*curves: Curve | None) -> list[Curve]:
    return [curve for curve in curves if curve is not None]


def _answers(prompted: PromptAnswers, hop: int, colours: Sequence[str]) -> str:
    prompt = prompted.prompt
    given = f"“{prompt.text}”" if prompt.text else "nothing"
    parts = [f"<h2>Prompt: {clean(given)}</h2>"]
    if prompt.units is not None:
        strip = _strip(hop, prompt.units, prompt.audio, prompt.words, (), ())
        parts.append(
            _heard("the recording" if prompt.audio is not None else "the prompt", "", strip, prompt.audio, colours)
        )
    for said in prompted.said:
        end = "ended by itself" if said.ended else "cut at the limit"
        if not said.to_speech:
            parts.append(
                f'<p class="said"><span>{clean(said.label)}, in text ({end})</span><q>{clean(said.text or "(nothing)")}</q></p>'
            )
            continue
        words = prompt.words if prompt.units is not None else ()
        joins = (said.prompt_frames,) if 0 < said.prompt_frames < len(said.units) else ()
        strip = _strip(hop, said.units, said.audio, words, said.patches, joins)
        note = f"after the line: new, {end}" if joins else end
        parts.append(_heard(f"{said.label}, in speech", note, strip, said.audio, colours))
    return f"<section>\n{''.join(parts)}</section>\n"


def _strip(
    hop: int,
    units: np.ndarray,
    audio: np.ndarray | None,
    words: Sequence[tuple[str, int, int]],
    patches: Sequence[tuple[int, int, int]],
    joins: Sequence[int],
) -> Strip:
    spoken = [StripWord(text=text, start=start, end=end, timing="aligned") for text, start, end in words]
    return Strip(
        hop=hop,
        first_second=0.0,
        audio=audio,
        units=units,
        words=spoken,
        patches=patches,
        joins=joins,
        join_note="the model goes on here",
    )


def _heard(name: str, note: str, strip: Strip, audio: np.ndarray | None, colours: Sequence[str]) -> str:
    drawing = draw_strip(strip, colours, name) if len(strip.units) else "<p>Not one unit.</p>"
    sound = (
        ""
        if audio is None
        else f'<audio controls preload="metadata" src="data:audio/mpeg;base64,{mp3(audio)}"></audio>'
    )
    head = f'<div class="head" style="left:{GUTTER}px"></div>' if audio is not None else ""
    caption = f"<figcaption>{clean(name)}" + (f" <span>({clean(note)})</span>" if note else "") + "</figcaption>"
    kind = "heard" if audio is not None and len(strip.units) else "plot"
    return (
        f'<figure class="{kind}" data-gutter="{GUTTER}" data-speed="{PIXELS_PER_SECOND}">{caption}{sound}'
        f'<div class="scroll"><div class="stage-of-head">{drawing}{head}</div></div></figure>'
    )
