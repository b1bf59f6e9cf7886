"""The files of a story corpus: text, speech with its transcripts, task files. All in parts, so that a kill costs little."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.stories.generate import ToldPair, cloze_pair, training_story
from recipes.stories.parts import Part, run_parts
from recipes.stories.settings import SpeechConfig, StoriesConfig, TaskConfig
from schemas.config import ConfigError
from schemas.files import whole_file
from schemas.tasks import TaskHeader, TaskItem, TaskSegment, write_task

VERSION = 1
"""Raised whenever the same configuration gives other stories or other audio (a test notices)."""
TEXT_PART = 5000
SPEECH_PART = 40
"""Stories: ten minutes or so of speech."""
TASK_PART = 20
"""Pairs."""


@dataclass(frozen=True, kw_only=True)
class BuildTarget:
    """One of the things to write; done when `result` is there."""

    name: str
    result: Path
    facts: dict[str, Any]
    """What its bytes depend on."""
    parts: list[Part]
    unit: str


def targets(config: StoriesConfig, root: Path, text_only: bool) -> list[BuildTarget]:
    """Everything that is to be written under `root`, in order."""
    written = [task_target(config, task, root) for task in config.tasks if not task.voices]
    spoken = [task_target(config, task, root) for task in config.tasks if task.voices]
    speech = [] if text_only else [speech_target(config, root), *spoken]
    return [text_target(config, root), *written, *speech]


def text_target(config: StoriesConfig, root: Path) -> BuildTarget:
    """text/train.txt: a story to a paragraph."""
    total = config.text.stories
    parts = [
        Part(
            path=root / "parts" / "text" / f"{start:08d}.txt",
            make=_write_text,
            arguments=(config.seed, start, min(start + TEXT_PART, total), config.mix),
            size=min(TEXT_PART, total - start),
        )
        for start in range(0, total, TEXT_PART)
    ]
    facts = {"seed": config.seed, "mix": config.mix, "stories": total}
    return BuildTarget(name="text", result=root / "text" / "train.txt", facts=facts, parts=parts, unit="story")


def speech_target(config: StoriesConfig, root: Path) -> BuildTarget:
    """speech/NNNNN/story-*.flac, each with its text beside it: what the pipeline reads."""
    speech = config.speech
    parts = [
        Part(
            path=root / "speech" / f"{number:05d}",
            make=_write_speech,
            arguments=(config.seed, start, min(start + SPEECH_PART, speech.stories), config.mix, speech),
            size=min(SPEECH_PART, speech.stories - start),
        )
        for number, start in enumerate(range(0, speech.stories, SPEECH_PART))
    ]
    facts = {"seed": config.seed, "mix": config.mix, **speech.model_dump(mode="json")}
    return BuildTarget(name="speech", result=root / "speech.json", facts=facts, parts=parts, unit="story")


def task_target(config: StoriesConfig, task: TaskConfig, root: Path) -> BuildTarget:
    """tasks/NAME.jsonl, and its audio under tasks/audio/NAME where the task is spoken."""
    parts = [
        Part(
            path=root / "tasks" / "audio" / task.name / rung / f"{start:04d}",
            make=_write_audio,
            arguments=(config.seed, task, rung, start, min(start + TASK_PART, task.pairs)),
            size=min(TASK_PART, task.pairs - start),
        )
        for rung in task.rungs
        for start in range(0, task.pairs, TASK_PART)
        if task.voices
    ]
    facts = {"seed": config.seed, **task.model_dump(mode="json")}
    return BuildTarget(
        name=f"task-{task.name}",
        result=root / "tasks" / f"{task.name}.jsonl",
        facts=facts,
        parts=parts,
        unit="pair",
    )


def run_target(config: StoriesConfig, target: BuildTarget, root: Path, processes: int) -> bool:
    """Write what a target lacks; False where it was done already.

    Raises:
        ConfigError: the folder holds this target made with other settings.
        PartError: a part could not be made.
    """
    claim(target, root)
    if target.result.exists():
        return False
    run_parts(target.parts, processes, target.name, target.unit, root / "parts" / f"scratch-{target.name}")
    target.result.parent.mkdir(parents=True, exist_ok=True)
    if target.name == "text":
        _publish(target.result, b"".join(part.path.read_bytes() for part in target.parts))
        for part in target.parts:
            part.path.unlink()
    elif target.name == "speech":
        _publish(target.result, _speech_summary(target, root))
    else:
        task = next(task for task in config.tasks if f"task-{task.name}" == target.name)
        write_task(target.result, _header(config, task), _items(config.seed, task))
    return True


def claim(target: BuildTarget, root: Path) -> None:
    """Write down what a target is made from, before anything of it is made.

    Raises:
        ConfigError: it was begun with other settings.
    """
    path = root / "parts" / f"{target.name}.json"
    facts = json.loads(json.dumps({"version": VERSION, **target.facts}))
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(key for key in facts.keys() | before.keys() if facts.get(key) != before.get(key))
        if changed:
            raise ConfigError(
                f"{root} holds {target.name} made with another {', '.join(changed)}: choose another `output`, or remove "
                f"{path} and {target.result if target.name == 'text' else target.result.with_suffix('')}"
            )
        return
    _publish(path, (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())


def _publish(path: Path, content: bytes) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(content)


def _write_text(path: Path, seed: int, start: int, end: int, mix: Mapping[str, float]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for index in range(start, end):
            file.write(training_story(seed, "text", index, mix).text + "\n\n")


def _write_speech(
    folder: Path, seed: int, start: int, end: int, mix: Mapping[str, float], speech: SpeechConfig
) -> None:
    folder.mkdir()
    for index in range(start, end):
        told = training_story(seed, "speech", index, mix)
        voice = speech.voices[index % len(speech.voices)]
        name = f"story-{index:06d}-{voice.replace('@', '-x')}"
        (folder / f"{name}.txt").write_text(told.text + "\n", encoding="utf-8")
        _write_flac(folder / f"{name}.flac", told.sentences, voice)


def _write_audio(folder: Path, seed: int, task: TaskConfig, rung: str, start: int, end: int) -> None:
    folder.mkdir()
    for index in range(start, end):
        pair = cloze_pair(seed, task.split, rung, index)
        voice = task.voices[index % len(task.voices)]
        for side in range(2):
            _write_flac(folder / f"{index:05d}-prompt-{side}.flac", pair.prompts[side], voice)
            _write_flac(folder / f"{index:05d}-ending-{side}.flac", [pair.endings[side]], voice)


def _write_flac(path: Path, sentences: Any, voice: str) -> None:
    import soundfile

    from recipes.stories.voices import SAMPLE_RATE, speak

    buffer = io.BytesIO()
    soundfile.write(buffer, speak(sentences, voice), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    path.write_bytes(buffer.getvalue())


def _speech_summary(target: BuildTarget, root: Path) -> bytes:
    import soundfile

    files = sorted((root / "speech").glob("*/*.flac"))
    seconds = sum(soundfile.info(file).duration for file in files)
    facts = {"recordings": len(files), "hours": round(seconds / 3600, 3), **target.facts}
    return (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode()


def _header(config: StoriesConfig, task: TaskConfig) -> TaskHeader:
    notes = {"seed": config.seed, "split": task.split, "version": VERSION, "voices": task.voices}
    return TaskHeader(task=f"stories-{task.name}", notes=notes)


def _items(seed: int, task: TaskConfig) -> Iterator[TaskItem]:
    for rung in task.rungs:
        for index in range(task.pairs):
            yield from _pair_items(task, cloze_pair(seed, task.split, rung, index), index)


def _pair_items(task: TaskConfig, pair: ToldPair, index: int) -> Iterator[TaskItem]:
    folder = f"audio/{task.name}/{pair.rung}/{index // TASK_PART * TASK_PART:04d}"
    voice = task.voices[index % len(task.voices)] if task.voices else None

    def segment(text: str, name: str) -> TaskSegment:
        return TaskSegment(text=text, audio=f"{folder}/{index:05d}-{name}.flac" if voice else None)

    endings = [segment(text, f"ending-{side}") for side, text in enumerate(pair.endings)]
    for side, prompt in enumerate(pair.prompts):
        yield TaskItem(
            id=f"{pair.rung}-{index:05d}-{'ab'[side]}",
            cluster=f"{pair.rung}-{index:05d}",
            group=pair.rung,
            prompt=segment(" ".join(prompt), f"prompt-{side}"),
            endings=endings,
            answer=side,
            notes={"voice": voice} if voice else {},
        )
