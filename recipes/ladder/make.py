"""Make a ladder: speech shards, text and tasks, without audio, aligner or pipeline.

    python -m recipes.ladder.make configs/stories/ladder-lex3.yaml
    python -m recipes.ladder.make configs/stories/ladder-lex3.yaml --tasks      its tasks alone, beside shards that are there

Equal configurations give equal bytes. Needs the flite libraries (Debian: libflite1).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.own_units import SpokenUnits, write_own_units
from recipes.ladder.settings import HOP, LadderConfig, ProbeConfig
from recipes.ladder.speech import Speaker, Spoken, forms, words_of
from recipes.ladder.tasks import SpokenText, UnspokenItem, draw_items, rungs_of, sentences_of
from recipes.stories.generate import training_story
from recipes.voices import flite
from schemas.commands.cli import Parser, command
from schemas.config import ConfigError, load_config
from schemas.tasks import TaskHeader, TaskItem, TaskSegment, write_task

FIT_STORIES = 1500
"""Stories whose sentences the units are fitted on."""


def story(config: LadderConfig, stream: str, number: int) -> tuple[str, ...]:
    """The sentences of a training story."""
    mix = dict.fromkeys(config.rungs, 1.0)
    events = config.events[number % len(config.events)]
    return training_story(config.seed, stream, number, mix, events).sentences


def stories(config: LadderConfig) -> list[tuple[tuple[str, ...], str]]:
    """The sentences of each spoken story, and its voice."""
    return [(story(config, "speech", n), config.voices[n % len(config.voices)]) for n in range(config.speech_stories)]


def learned_speaker(
    config: LadderConfig, told: Sequence[tuple[tuple[str, ...], str]] | None = None
) -> tuple[Speaker, list[tuple[str, str]]]:
    """A speaker that has learned from a ladder's stories, and the (sentence, voice) it learned from."""
    told = stories(config) if told is None else told
    speaker = Speaker(config)
    said = [(sentence, voice) for sentences, voice in told for sentence in sentences]
    speaker.learn(said, fit=sum(len(sentences) for sentences, _ in told[:FIT_STORIES]))
    return speaker, said


def make(config: LadderConfig) -> dict[str, float]:
    """Write the ladder; returns what it holds."""
    out = Path(config.output)
    told = stories(config)
    speaker, said = learned_speaker(config, told)
    spoken = speaker.speak(said)
    samples = (
        _sample(f"{config.name}-{number:06d}", [spoken[sentence, voice] for sentence in sentences], sentences)
        for number, (sentences, voice) in enumerate(told)
        if all((sentence, voice) in spoken for sentence in sentences)
    )
    speaker.write_clusters(out / "kmeans")
    cards = speaker.cards()
    index = write_own_units(out / "shards", samples, num_units=speaker.num_units, hop=HOP, cards=cards)
    text = (" ".join(story(config, "text", number)) + "\n\n" for number in range(config.text_stories))
    (out / "train.txt").write_text("".join(text), encoding="utf-8")
    facts = {**index.totals, "text_stories": config.text_stories, **make_tasks(config, speaker)}
    (out / "ladder.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return facts


def make_tasks(config: LadderConfig, speaker: Speaker) -> dict[str, int]:
    """Write the tasks; returns how many items each has."""
    cards = {card.card_id: card for card in speaker.cards()}
    facts: dict[str, int] = {}
    for task in config.tasks:
        header = TaskHeader(
            task=f"{config.name}-{task.name}", cards=cards,
            num_units=speaker.num_units, hop=HOP, notes={"seed": config.seed, "events": config.events},
        )  # fmt: skip
        path = Path(config.output) / f"{task.name}.jsonl"
        facts[f"{task.name}_items"] = write_task(path, header, _task(config, task, speaker))
    return facts


def _sample(key: str, parts: Sequence[Spoken], sentences: Sequence[str]) -> SpokenUnits:
    """A story's sentences end to end."""
    segment = joined(parts, sentences)
    return SpokenUnits(
        key=key, text=" ".join(sentences), char_spans=[span for span, _ in segment[1]], units=segment[0],
        word_frames=[frames for _, frames in segment[1]],
    )  # fmt: skip


def joined(
    parts: Sequence[Spoken], sentences: Sequence[str]
) -> tuple[np.ndarray, list[tuple[tuple[int, int], tuple[int, int]]]]:
    """Units of sentences end to end, and where each word stands in the text (a space between sentences) and in the units."""
    words: list[tuple[tuple[int, int], tuple[int, int]]] = []
    frame = character = 0
    for part, sentence in zip(parts, sentences, strict=True):
        for (first, last), (start, end) in zip(words_of(sentence), part.word_frames, strict=True):
            words.append(((first + character, last + character), (start + frame, end + frame)))
        frame += len(part.units)
        character += len(sentence) + 1
    return np.concatenate([part.units for part in parts]), words


def _task(config: LadderConfig, task: ProbeConfig, speaker: Speaker) -> Iterator[TaskItem]:
    """The first `pairs` whole clusters of each rung."""
    items = list(draw_items(config, task))
    spoken = speaker.speak(sentences_of(items))
    whole: dict[str, list[UnspokenItem]] = {}
    for item in items:
        whole.setdefault(item.cluster, []).append(item)
    kept: dict[str, int] = {}
    for members in whole.values():
        group = members[0].group
        complete = len(members) == 2 and all(key in spoken for key in sentences_of(members))
        if complete and kept.get(group, 0) < task.pairs:
            kept[group] = kept.get(group, 0) + 1
            for item in members:
                yield TaskItem(
                    id=item.id, group=item.group, cluster=item.cluster, prompt=segment_of(item.prompt, spoken),
                    endings=[segment_of(ending, spoken) for ending in item.endings], answer=item.answer,
                )  # fmt: skip
    short = {rung: kept.get(rung, 0) for rung in rungs_of(config, task) if kept.get(rung, 0) < task.pairs}
    if short:
        raise ConfigError(f"only so many pairs of {task.name} can be told and spoken: {short}; lower tasks.pairs")


def segment_of(said: SpokenText, spoken: dict[tuple[str, str], Spoken]) -> TaskSegment:
    """Sentences end to end by one voice, of those spoken before: text, units and the frames of their words."""
    sentences, voice = said
    units, words = joined([spoken[sentence, voice] for sentence in sentences], sentences)
    names = [form for sentence in sentences for form in forms(sentence)]
    return TaskSegment(
        text=" ".join(sentences),
        units=units.tolist(),
        words=[(name, start, end) for name, (_, (start, end)) in zip(names, words, strict=True)],
    )


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the ladder's text, tasks and speech."""
    parser = Parser(__doc__)
    parser.add_argument("config", help="a ladder of configs/stories/")
    parser.add_argument("--tasks", action="store_true", help="write its tasks alone, beside shards that are there")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="fields to set, read as YAML")
    given = parser.parse_args(arguments)
    config = load_config(LadderConfig, given.config, given.overrides)
    if not flite.available():
        raise ConfigError("flite is not installed (Debian package libflite1): nothing can speak the ladder")
    facts = make_tasks(config, learned_speaker(config)[0]) if given.tasks else make(config)
    print(", ".join(f"{name} {value:,.0f}" for name, value in facts.items()), f"-> {config.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
