"""Task files: choices between endings, for scoring. The contract between who makes tasks, who prepares and who scores them.

JSONL. The first line is a TaskHeader, each other line a TaskItem. A segment carries one content in up to three forms (text,
audio, units), so that one file serves S->S, T->T, S->T and T->S. Whoever makes a task writes text and audio with
`"cards": null`; `jobs/prepare_task.py` adds units, words and the cards of what made them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from schemas.cards import Card
from schemas.config import ConfigError, StrictModel, json_object, parse_config
from schemas.files import whole_file

TASK_FORMAT: Literal[1] = 1

Model = TypeVar("Model", bound=StrictModel)


class TaskError(ConfigError):
    """A task file that cannot be used; the message names the file and the line."""


class TaskHeader(StrictModel):
    """The first line of a task file: what made its units and where it comes from."""

    format: Literal[1] = TASK_FORMAT
    task: str
    """A name for tables, such as "story-cloze"."""
    cards: dict[str, Card] | None = None
    """Card id -> card of everything that made units and words; None: not prepared yet."""
    num_units: int | None = Field(None, ge=1)
    """Size of the unit vocabulary; given with the cards."""
    hop: int | None = Field(None, ge=1)
    """Samples at 16 kHz per unit; given with the cards."""
    notes: dict[str, Any] = {}
    """Where the task comes from: source, licence, voices. Nothing reads it."""

    @model_validator(mode="after")
    def _cards_come_with_their_facts(self) -> Self:
        if len({self.cards is None, self.num_units is None, self.hop is None}) > 1:
            raise ValueError("cards, num_units and hop are given together (by jobs/prepare_task.py) or not at all")
        return self


class TaskSegment(StrictModel):
    """A prompt or an ending. An empty prompt is `{"text": ""}`."""

    text: str
    """"" with audio or units: nobody knows its text, and only speech can be scored."""
    audio: str | None = None
    """A path inside the folder of the task file, with forward slashes."""
    units: list[int] | None = None
    words: list[tuple[str, int, int]] | None = None
    """(text, first frame, frame after the last) of each word in `units`."""

    @property
    def is_empty(self) -> bool:
        """Nothing to read and nothing to hear."""
        return not self.text and self.audio is None and self.units is None

    @field_validator("audio")
    @classmethod
    def _stays_inside(cls, path: str | None) -> str | None:
        if path is not None and (
            not path or "\\" in path or "://" in path or PurePosixPath(path).is_absolute() or ".." in path.split("/")
        ):
            raise ValueError(f"{path!r} must be a relative path inside the task file's folder, with forward slashes")
        return path

    @model_validator(mode="after")
    def _words_lie_in_units(self) -> Self:
        if self.units is not None and not self.units:
            raise ValueError("units are empty; leave them out where there is no speech")
        if self.words:
            if self.units is None:
                raise ValueError("words are frames of units, and there are no units")
            edges = [0, *(edge for _, start, end in self.words for edge in (start, end)), len(self.units)]
            if any(a > b for a, b in pairwise(edges)):
                raise ValueError(f"words overlap, are out of order, or leave the {len(self.units)} units")
        return self


class TaskItem(StrictModel):
    """A prompt and its endings, of which one is right."""

    id: str
    group: str
    """Accuracies are reported per group and over all."""
    prompt: TaskSegment
    endings: list[TaskSegment] = Field(min_length=2)
    answer: int = Field(ge=0)
    """Index of the right ending."""
    cluster: str | None = None
    """Items that share a prompt, endings or a story name the same cluster: intervals resample clusters whole. None: the item
    stands alone. Two items of a cluster with the same two endings and the answer swapped are twins."""
    notes: dict[str, Any] = {}
    """Voice, skeleton and the like. Nothing reads it."""

    @model_validator(mode="after")
    def _answer_exists(self) -> Self:
        if self.answer >= len(self.endings):
            raise ValueError(f"answer {self.answer} is no index into {len(self.endings)} endings")
        if any(ending.is_empty for ending in self.endings):
            raise ValueError("an ending is empty")
        return self

    @property
    def segments(self) -> list[TaskSegment]:
        """The prompt and the endings."""
        return [self.prompt, *self.endings]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task file in memory."""

    header: TaskHeader
    items: list[TaskItem]
    path: Path | None = None
    """Where it was read from; audio paths are relative to its folder."""

    def audio_path(self, segment: TaskSegment) -> Path:
        """Where a segment's audio lies.

        Raises:
            TaskError: a link leads out of the task file's folder.
        """
        assert self.path is not None
        assert segment.audio is not None
        folder = self.path.parent.resolve()
        found = (folder / segment.audio).resolve()
        if not found.is_relative_to(folder):
            raise TaskError(f"{self.path}: audio {segment.audio!r} leads out of {folder}; copy it inside")
        return found


def read_task(path: str | Path) -> Task:
    """A task file.

    Raises:
        TaskError: it cannot be read, is empty, or a line is wrong; the message names the line and says what is wrong with it.
    """
    path = Path(path)
    lines = json_lines(path)
    number, document = next(lines, (1, None))
    if document is None:
        raise TaskError(
            f'{path} is empty; its first line must be a header: {{"format": 1, "task": NAME, "cards": null}}'
        )
    if "task" not in document:
        raise TaskError(f"{path}:{number}: the first line must be a header with 'format' and 'task'; found an item?")
    header = _parse(TaskHeader, document, f"{path}:{number}")
    items: list[TaskItem] = []
    seen: dict[str, int] = {}
    for number, document in lines:
        where = f"{path}:{number}"
        item = _parse(TaskItem, document, where)
        if item.id in seen:
            raise TaskError(f"{where}: id {item.id!r} was given to line {seen[item.id]} already")
        seen[item.id] = number
        _check_units(item, header, where)
        items.append(item)
    if not items:
        raise TaskError(f"{path} has a header and no items")
    return Task(header=header, items=items, path=path)


def write_task(path: str | Path, header: TaskHeader, items: Iterable[TaskItem]) -> int:
    """Write a task file, whole or not at all; equal items give equal bytes. Returns the number of items."""
    count = 0
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(_line(header))
        for item in items:
            file.write(_line(item))
            count += 1
    return count


def _line(row: StrictModel) -> str:
    document = row.model_dump(mode="json", exclude_none=True)
    if not document.get("notes"):
        document.pop("notes", None)
    if isinstance(row, TaskHeader):
        document.setdefault("cards", None)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line of a JSONL file that is not blank.

    Raises:
        TaskError: the file cannot be read, is not UTF-8, or a line holds no JSON object.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    yield number, json_object(line)
                except ValueError as error:
                    raise TaskError(f"{path}:{number}: {error}") from error
    except OSError as error:
        if url := re.match(r"([a-z][a-z0-9+.]+):/+(.+)", str(path)):  # a Path has lost one of its slashes
            raise TaskError(
                f"{url[1]}://{url[2]} is not on this machine, and tasks are read from its disk: copy it here"
            ) from error
        raise TaskError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8: {error}") from error


def _parse(cls: type[Model], document: dict[str, Any], where: str) -> Model:
    try:
        return parse_config(cls, document, where)
    except ConfigError as error:
        raise TaskError(str(error)) from error


def _check_units(item: TaskItem, header: TaskHeader, where: str) -> None:
    for segment in item.segments:
        if segment.units is None:
            continue
        if header.num_units is None:
            raise TaskError(f"{where}: item {item.id!r} has units, and the header names no cards that made them")
        if not 0 <= min(segment.units) <= max(segment.units) < header.num_units:
            raise TaskError(f"{where}: item {item.id!r} has units outside [0, {header.num_units})")
