"""The configuration of a story corpus (configs/stories/*.yaml). Everything but `output` decides the bytes that are written."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from recipes.stories.cloze import RUNGS
from recipes.stories.splits import Split
from recipes.stories.voices import parse_voice
from schemas.config import StrictModel


class TextConfig(StrictModel):
    """Stories for reading, one to a paragraph. Their skeletons are those of the training split."""

    stories: int = Field(gt=0)


class _Spoken(StrictModel):
    voices: list[str]
    """Taken in turns: flite-slt, espeak-en-us+f1, ...; "@1.1" behind a name makes the voice 1.1 times slower and lower."""

    @field_validator("voices")
    @classmethod
    def _voices_are_known(cls, voices: list[str]) -> list[str]:
        for voice in voices:
            parse_voice(voice)
        return voices


class SpeechConfig(_Spoken):
    """Stories for listening; other ones than those of the text."""

    stories: int = Field(gt=0)
    voices: list[str] = Field(min_length=1)


class TaskConfig(_Spoken):
    """A task file with every rung."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    split: Split
    pairs: int = Field(gt=0)
    """Per rung; a pair is two items. Pair n is the same in every task of a split."""
    rungs: list[str] = Field(list(RUNGS), min_length=1)
    voices: list[str] = []
    """None: a task file of text alone."""

    @field_validator("rungs")
    @classmethod
    def _rungs_exist(cls, rungs: list[str]) -> list[str]:
        return _check_rungs(rungs)


class StoriesConfig(StrictModel):
    """A corpus of told stories: its text, its speech and its tasks (configs/stories/)."""

    output: str
    seed: int
    mix: dict[str, float]
    """Rung -> weight among the training stories."""
    text: TextConfig
    speech: SpeechConfig
    tasks: list[TaskConfig]

    @field_validator("mix")
    @classmethod
    def _mix_is_of_rungs(cls, mix: dict[str, float]) -> dict[str, float]:
        _check_rungs(list(mix))
        if min(mix.values(), default=0) < 0 or sum(mix.values()) <= 0:
            raise ValueError("weights must not be negative, and one must be positive")
        return mix

    @model_validator(mode="after")
    def _tasks_keep_apart(self) -> StoriesConfig:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"two tasks have one name: {', '.join(names)}")
        for task in self.tasks:
            if task.split == "train":
                raise ValueError(f"task {task.name!r}: the split must be dev or test, for training reads the other")
        return self


def _check_rungs(rungs: list[str]) -> list[str]:
    for rung in rungs:
        if rung not in RUNGS:
            raise ValueError(f"{rung!r} is no rung; rungs: {', '.join(RUNGS)}")
    return rungs
