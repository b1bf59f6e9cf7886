"""A ladder's items: twins of stories, and probes of words, word order and voices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.data.draws import generator
from recipes.ladder.settings import LadderConfig, ProbeConfig
from recipes.ladder.speech import forms
from recipes.stories.generate import ToldPair, cloze_pair
from recipes.stories.telling import RETOLD, TRAINED, UNTRAINED

ONSETS = ("b", "br", "d", "dr", "f", "fl", "g", "gr", "k", "l", "m", "n", "p", "pl", "s", "sl", "st", "t", "tr", "v")
RIMES = (
    "ab",
    "ack",
    "ade",
    "ank",
    "arp",
    "ast",
    "eb",
    "elk",
    "emp",
    "ept",
    "ib",
    "ild",
    "ink",
    "isp",
    "ob",
    "olt",
    "onk",
    "ud",
)
"""A pseudo-word is two of each, such as "blobemp"."""

SpokenText = tuple[tuple[str, ...], str]
"""Sentences, and the voice that says them."""


@dataclass(frozen=True, kw_only=True)
class UnspokenItem:
    """A choice before it is spoken."""

    id: str
    group: str
    cluster: str
    prompt: SpokenText
    endings: tuple[SpokenText, SpokenText]
    answer: int


def draw_items(config: LadderConfig, task: ProbeConfig) -> Iterator[UnspokenItem]:
    """All items of a task, rung by rung; enough and to spare, since a sentence that cannot be spoken loses its pair."""
    for rung in rungs_of(config, task):
        for index in range(2 * task.pairs):
            yield from _items(config, task, rung, index)


def rungs_of(config: LadderConfig, task: ProbeConfig) -> tuple[str, ...]:
    """The rungs of a task, the probes last."""
    if task.wordings == "untrained":
        return tuple(rung for rung in config.rungs if rung in RETOLD)
    return (*config.rungs, *config.probes)


def _items(config: LadderConfig, task: ProbeConfig, rung: str, index: int) -> Iterator[UnspokenItem]:
    if rung == "voice":
        yield from _voices(config, task, index)
    elif rung in ("word", "syntax"):
        yield from _wordings(config, task, rung, index)
    else:
        pair = _pair(config, task, rung, index)
        voice = config.voices[index % len(config.voices)]
        ends = ((pair.endings[0],), voice), ((pair.endings[1],), voice)
        if pair.prompts[0] != pair.prompts[1] and pair.endings[0] != pair.endings[1]:
            for side, prompt in enumerate(pair.prompts):
                yield _item(rung, index, side, (tuple(prompt), voice), ends, side)


def _pair(config: LadderConfig, task: ProbeConfig, rung: str, index: int) -> ToldPair:
    wordings = TRAINED if task.wordings == "trained" else UNTRAINED
    return cloze_pair(config.seed, task.split, rung, index, config.events[index % len(config.events)], wordings)


def _item(
    rung: str, index: int, side: int, prompt: SpokenText, endings: tuple[SpokenText, SpokenText], answer: int
) -> UnspokenItem:
    cluster = f"{rung}-{index:05d}"
    return UnspokenItem(
        id=f"{cluster}-{'ab'[side]}", group=rung, cluster=cluster, prompt=prompt, endings=endings, answer=answer
    )


def _voices(config: LadderConfig, task: ProbeConfig, index: int) -> Iterator[UnspokenItem]:
    """One story in two voices, its ending in both: right is the voice of the story."""
    pair = _pair(config, task, config.rungs[index % len(config.rungs)], index)
    first = index % len(config.voices)
    voices = config.voices[first], config.voices[(first + 1) % len(config.voices)]
    endings = ((pair.endings[0],), voices[0]), ((pair.endings[0],), voices[1])
    for side, voice in enumerate(voices):
        yield _item("voice", index, side, (tuple(pair.prompts[0]), voice), endings, side)


def _wordings(config: LadderConfig, task: ProbeConfig, rung: str, index: int) -> Iterator[UnspokenItem]:
    """Both stories of a pair with their own endings; wrong is the same ending with a word spoilt. No twins: what is wrong here is
    right nowhere."""
    pair = _pair(config, task, config.rungs[index % len(config.rungs)], index)
    voice = config.voices[index % len(config.voices)]
    rng = generator(config.seed, rung, task.split, index)
    for side, prompt in enumerate(pair.prompts):
        ending = pair.endings[side]
        words = ending.rstrip(".").split()
        if rung == "word":
            longest = max(range(len(words)), key=lambda number: len(words[number]))
            words[longest] = "".join(str(rng.choice(part)) for part in (ONSETS, RIMES, ONSETS, RIMES))
        else:
            places = [n for n in range(len(words) - 1) if words[n].lower() != words[n + 1].lower()]
            place = int(rng.choice(places))
            words[place], words[place + 1] = words[place + 1], words[place]
        wrong = " ".join(words) + "."
        answer = (index + side) % 2
        choices = (ending, wrong) if answer == 0 else (wrong, ending)
        ends = ((choices[0],), voice), ((choices[1],), voice)
        if forms(ending) != forms(wrong):
            yield _item(rung, index, side, (tuple(prompt), voice), ends, answer)


def sentences_of(items: Sequence[UnspokenItem]) -> list[tuple[str, str]]:
    """(sentence, voice) of all that the items say."""
    parts = [part for item in items for part in (item.prompt, *item.endings)]
    return [(sentence, voice) for sentences, voice in parts for sentence in sentences]
