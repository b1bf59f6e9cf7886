"""Stories and cloze items by number: pure functions of the seed, the stream and the index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model.data.draws import generator
from recipes.stories.cloze import NUM_EVENTS, Pair, Story, draw_pair
from recipes.stories.splits import Split, split_of
from recipes.stories.telling import TRAINED, Wordings, tell, tell_ending
from recipes.stories.world import replay


@dataclass(frozen=True, kw_only=True)
class ToldStory:
    """A story with the ending that follows, sentence by sentence."""

    rung: str
    story: Story
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


@dataclass(frozen=True, kw_only=True)
class ToldPair:
    """Two prompts and the two endings they share; prompt 0 goes with ending 0 and prompt 1 with ending 1."""

    rung: str
    pair: Pair
    prompts: tuple[tuple[str, ...], tuple[str, ...]]
    """Sentences."""
    endings: tuple[str, str]


def training_story(
    seed: int, stream: str, index: int, mix: Mapping[str, float], num_events: int = NUM_EVENTS
) -> ToldStory:
    """Story number `index` of a stream ("text", "speech") of the training split; rungs are drawn by the weights `mix`."""
    rng = generator(seed, "story", stream, index)
    rungs = list(mix)
    edges = np.cumsum([mix[rung] for rung in rungs])
    rung = rungs[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]
    while True:
        pair, side = draw_pair(rung, rng, num_events), int(rng.integers(2))
        story = pair.stories[side]
        if split_of(story.events) == "train":
            break
    sentences = (
        *tell(story.events, story.people, pair.style),
        tell_ending(story.endings[side], story.people, pair.style),
    )
    return ToldStory(rung=rung, story=story, sentences=sentences)


def cloze_pair(
    seed: int, split: Split, rung: str, index: int, num_events: int = NUM_EVENTS, wordings: Wordings = TRAINED
) -> ToldPair:
    """Pair number `index` of a rung; both of its stories belong to the split."""
    rng = generator(seed, "cloze", split, rung, index)
    while True:
        pair = draw_pair(rung, rng, num_events)
        if all(split_of(story.events) == split for story in pair.stories):
            return _told(pair, wordings)


def _told(pair: Pair, wordings: Wordings) -> ToldPair:
    prompts = tuple(tuple(tell(story.events, story.people, pair.style, wordings)) for story in pair.stories)
    first = pair.stories[0]
    endings = tuple(tell_ending(ending, first.people, pair.style, wordings) for ending in first.endings)
    return ToldPair(rung=pair.rung, pair=pair, prompts=(prompts[0], prompts[1]), endings=(endings[0], endings[1]))


def consistent(pair: Pair) -> bool:
    """Whether each ending follows from its own story and not from the other."""
    return all(
        replay(story.events).follows(ending) == (side == number)
        for side, story in enumerate(pair.stories)
        for number, ending in enumerate(story.endings)
    )
