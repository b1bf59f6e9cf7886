"""What an evaluation while training leaves in the run's folder.

RUN/evaluation/step-00000500/evaluation.json      accuracies of the tasks, prompts and what was said to them
RUN/evaluation/step-00000500/said-0.flac          the prompt's units and the new ones, spoken
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from schemas.config import StrictModel
from schemas.files import whole_file

FOLDER, FILE = "evaluation", "evaluation.json"
NAME = re.compile(r"step-(\d{8})")


class TaskAccuracy(StrictModel):
    """A task in one direction under one normalisation of its endings' scores."""

    task: str
    direction: str
    normalisation: str
    value: float
    low: float
    """Of the 95 % interval."""
    high: float
    items: int


class SampleSaid(StrictModel):
    """What the model made of a prompt."""

    prompt: str
    """The words of the prompt."""
    in_speech: str | None
    """File of the sound, prompt included; None: nothing can be spoken."""
    prompt_seconds: float
    """Of the sound, at its beginning."""
    in_text: str
    """The continuation in text."""


class Evaluation(StrictModel):
    """What an evaluation during training found, to be written down and shown on the boards."""

    step: int
    accuracies: list[TaskAccuracy]
    samples: list[SampleSaid]
    seconds: float
    """That it took."""


def folder_of_step(run: Path, step: int) -> Path:
    """Where the evaluation of a step lies."""
    return run / FOLDER / f"step-{step:08d}"


def write_evaluation(run: Path, evaluation: Evaluation) -> None:
    """Write it, beside its sounds."""
    with whole_file(folder_of_step(run, evaluation.step) / FILE) as partial:
        partial.write_text(evaluation.model_dump_json(indent=1) + "\n", encoding="utf-8")


def evaluations(run: Path) -> list[tuple[Path, Evaluation]]:
    """(folder, evaluation) of each, by step. One without its file was broken off, and one that cannot be read is left out."""
    found = []
    for folder in _folders(run):
        try:
            text = (folder / FILE).read_text(encoding="utf-8")
            evaluation = Evaluation.model_validate_json(text)
        except (OSError, ValueError):
            continue
        found.append((folder, evaluation))
    return found


def forget_beyond(run: Path, step: int) -> None:
    """Remove evaluations past the step that a run goes on from: they will come again."""
    for folder in _folders(run):
        match = NAME.fullmatch(folder.name)
        if match and int(match.group(1)) > step:
            shutil.rmtree(folder)


def _folders(run: Path) -> Sequence[Path]:
    return sorted(path for path in (run / FOLDER).glob("step-*") if NAME.fullmatch(path.name))
