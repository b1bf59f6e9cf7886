"""Give a task of your own the units of a ladder: its text is spoken as the ladder's stories are, for models trained on them.

    python -m recipes.ladder.speak configs/stories/ladder-lex3.yaml twins.jsonl spoken.jsonl
    python -m model.score spoken.jsonl --checkpoint runs/mine

TASK is a task file with text alone (docs/scoring.md). Give the configuration, and the overrides, that the ladder was made with:
units of another making are refused when they are scored. Needs the flite libraries (Debian: libflite1).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.ladder.make import learned_speaker, segment_of
from recipes.ladder.settings import HOP, LadderConfig
from recipes.ladder.speech import Speaker, forms
from recipes.voices import flite
from schemas.commands.cli import Parser, command, out_file
from schemas.config import ConfigError, load_config
from schemas.tasks import Task, TaskError, TaskHeader, TaskItem, TaskSegment, read_task, write_task


def sentences_in(text: str) -> tuple[str, ...]:
    """The sentences of a text: each ends with a period, or with the text."""
    return tuple(re.split(r"(?<=\.)\s+", text.strip()))


def speak_task(speaker: Speaker, task: Task, voice: str) -> tuple[TaskHeader, list[TaskItem]]:
    """The task with the units of every segment that has text.

    Raises:
        TaskError: it has units or sound already, or a sentence is not spoken as it is written.
    """
    for item in task.items:
        if any(segment.units is not None or segment.audio is not None for segment in item.segments):
            raise TaskError(f"{task.path}: item {item.id!r} has units or audio already; give text alone")
    sentences = [
        (sentence, voice) for item in task.items for s in item.segments if s.text for sentence in sentences_in(s.text)
    ]
    spoken = speaker.speak(sentences)

    def heard(item: TaskItem, segment: TaskSegment) -> TaskSegment:
        if not segment.text:
            return segment
        said = sentences_in(segment.text)
        if missed := next((sentence for sentence in said if (sentence, voice) not in spoken), None):
            raise TaskError(
                f"{task.path}: item {item.id!r}: flite does not say {missed!r} as it is written; write numbers and "
                "abbreviations out, in ASCII letters, with no signs but periods, commas and apostrophes"
            )
        return segment_of((said, voice), spoken).model_copy(update={"text": segment.text})

    items = [
        item.model_copy(
            update={"prompt": heard(item, item.prompt), "endings": [heard(item, ending) for ending in item.endings]}
        )
        for item in task.items
    ]
    cards = {card.card_id: card for card in speaker.cards()}
    header = task.header.model_copy(update={"cards": cards, "num_units": speaker.num_units, "hop": HOP})
    return header, items


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write a task with the units of a ladder's voice."""
    parser = Parser(__doc__)
    parser.add_argument("config", help="a ladder of configs/stories/")
    parser.add_argument("task", type=Path, help="a task file with text alone")
    parser.add_argument("out", type=out_file, help="the task file to write")
    parser.add_argument("--voice", help="one of the ladder's voices (default: its first)")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="fields to set, read as YAML")
    given = parser.parse_args(arguments)
    config = load_config(LadderConfig, given.config, given.overrides)
    voice = given.voice or config.voices[0]
    if voice not in config.voices:
        raise ConfigError(f"--voice {voice}: this ladder is spoken by {', '.join(config.voices)}")
    if not flite.available():
        raise ConfigError("flite is not installed (Debian package libflite1): nothing can speak the task")
    task = read_task(given.task)
    speaker, said = learned_speaker(config)
    header, items = speak_task(speaker, task, voice)
    write_task(given.out, header, items)
    print(f"{len(items)} items -> {given.out}")
    known = {form for sentence, _ in said for form in forms(sentence)}
    words = {form for item in items for segment in item.segments for form in forms(segment.text)}
    if strange := sorted(words - known):
        print(f"words that no training story says: {', '.join(strange)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
