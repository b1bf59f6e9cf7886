"""Stories hang together, their endings follow or do not, and nothing but the story tells which."""

import dataclasses
import hashlib
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundswallower
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.stories import surface, telling
from recipes.stories.cloze import RUNGS, draw_pair
from recipes.stories.corpus import VERSION
from recipes.stories.generate import ToldPair, ToldStory, cloze_pair, consistent, training_story
from recipes.stories.lexicon import IDLE, PLACES, PRONOUN, THINGS
from recipes.stories.problems import PROBLEMS
from recipes.stories.splits import split_of
from recipes.stories.voices import parse_voice
from recipes.stories.world import Event, Impossible, replay, skeleton
from recipes.voices import espeak
from schemas.config import ConfigError

MIX = dict.fromkeys(RUNGS, 1.0)
rungs = pytest.mark.parametrize("rung", list(RUNGS))


@pytest.fixture(scope="module")
def stories() -> list[ToldStory]:
    return [training_story(1, "text", index, MIX) for index in range(1500)]


@pytest.fixture(scope="module")
def pairs() -> dict[str, list[ToldPair]]:
    return {rung: [cloze_pair(1, "test", rung, index) for index in range(12)] for rung in RUNGS}


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


@rungs
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_each_ending_follows_from_its_own_story_alone(rung: str, seed: int) -> None:
    """All events of both stories can happen, and of the two endings exactly the right one is true after them."""
    assert consistent(draw_pair(rung, generator(seed)))


@rungs
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_both_stories_are_told_alike_and_share_their_endings(rung: str, seed: int) -> None:
    pair = draw_pair(rung, generator(seed))
    endings = [
        [telling.tell_ending(ending, story.people, pair.style) for ending in story.endings] for story in pair.stories
    ]
    assert endings[0] == endings[1]
    assert endings[0][0] != endings[0][1]
    told = [telling.tell(story.events, story.people, pair.style) for story in pair.stories]
    assert told[0] != told[1]
    if rung in ("object", "spot", "place"):
        assert sum(a != b for a, b in zip(*told, strict=True)) == 1, "one sentence is all that differs"
    if rung in ("holder", "binding"):
        assert sorted(surface.words(" ".join(told[0]))) == sorted(surface.words(" ".join(told[1])))


@pytest.mark.parametrize(
    "events",
    [
        [Event(kind="take", thing="hat"), Event(kind="take", who=1, thing="hat")],
        [Event(kind="take", thing="hat"), Event(kind="put", who=1, thing="hat", where="on the bench")],
        [Event(kind="switch", thing="gate", where="on"), Event(kind="switch", thing="gate", where="on")],
        [Event(kind="solve", thing="hungry")],
        [Event(kind="scene", thing="0", where="beach")],
        [Event(kind="idle", who=2, thing="song")],
        [Event(kind="arrive", where="beach")],
    ],
)
def test_what_cannot_happen_is_refused(events: list[Event]) -> None:
    with pytest.raises(Impossible):
        replay((Event(kind="arrive", where="garden"), *events))


def test_training_stories_and_tasks_keep_to_their_splits(
    stories: list[ToldStory], pairs: dict[str, list[ToldPair]]
) -> None:
    assert {split_of(told.story.events) for told in stories} == {"train"}
    tested = [story for group in pairs.values() for told in group for story in told.pair.stories]
    assert {split_of(story.events) for story in tested} == {"test"}
    assert {split_of(s.events) for s in cloze_pair(1, "dev", "order", 3).pair.stories} == {"dev"}
    assert not {skeleton(told.story.events) for told in stories} & {skeleton(story.events) for story in tested}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), rung=st.sampled_from(list(RUNGS)))
def test_a_skeleton_outlives_names_and_wording_but_no_event(seed: int, rung: str) -> None:
    """Exchanging the two people throughout is the same story; another thing, spot, order or doer is not."""
    events = draw_pair(rung, generator(seed)).stories[0].events
    exchanged = tuple(dataclasses.replace(event, who=1 - event.who) for event in events)
    assert skeleton(exchanged) == skeleton(events)
    others = {skeleton(story.events) for story in draw_pair("binding", generator(seed)).stories}
    assert len(others) == 2
    assert skeleton((events[0], *events[:0:-1])) != skeleton(events)


def test_nothing_tells_endings_apart_without_their_story(
    stories: list[ToldStory], pairs: dict[str, list[ToldPair]]
) -> None:
    """Scorers that see the endings alone are at exactly a half; words' company tells places, and cannot tell bindings."""
    for group in pairs.values():
        assert surface.accuracy(surface.ending_bigrams(stories), group) == 0.5
        assert surface.accuracy(surface.shortest, group) == 0.5
    company = surface.company(stories)
    assert surface.accuracy(company, pairs["place"]) > 0.8
    for rung in ("holder", "binding"):
        assert surface.accuracy(company, pairs[rung]) == surface.accuracy(surface.overlap, pairs[rung]) == 0.5


def test_every_word_is_in_the_pronouncing_dictionary() -> None:
    lines = Path(soundswallower.get_model_path("en-us"), "dict.txt").read_text(encoding="utf-8").splitlines()
    known = {line.split()[0] for line in lines if line}
    texts = [*PRONOUN, *THINGS, *telling.LINKS]
    for place in PLACES.values():
        texts += [place.at, place.to, *place.things, *place.spots, *place.devices, *place.scenery]
    texts += [sentence for deeds in IDLE.values() for sentence in deeds]
    texts += [sentence for problem in PROBLEMS.values() for sentence in (*problem.arises, *problem.solved)]
    for name in ("OPEN", "SHUT", "TURN_ON", "TURN_OFF", "IS_OPEN", "IS_SHUT", "IS_ON", "IS_OFF"):
        texts += getattr(telling, name)
    texts += [wording for wordings in vars(telling.TRAINED).values() for wording in wordings]
    vocabulary = set(surface.words(re.sub(r"{\w+}", " ", " ".join(texts))))
    assert not vocabulary - known
    assert len(vocabulary) > 600


def test_untrained_wordings_are_new_sentences_of_known_words() -> None:
    """None is a trained one, and training on the ladder's rungs says each of their words."""
    trained, untrained = (
        {re.sub(r"{\w+}", "*", wording) for wordings in vars(told).values() for wording in wordings}
        for told in (telling.TRAINED, telling.UNTRAINED)
    )
    assert not trained & untrained
    mix = dict.fromkeys(("topic", "last", "place", "person", "object", "spot"), 1.0)
    said = {word for index in range(3000) for word in surface.words(training_story(7, "text", index, mix, 2).text)}
    assert not set(surface.words(" ".join(untrained).replace("*", " "))) - said


@pytest.mark.parametrize("rung", telling.RETOLD)
def test_the_same_pairs_are_told_in_other_words(rung: str) -> None:
    """Same stories, same style; endings, and sentences that name people, places and things, are worded otherwise."""
    for index in range(12):
        one, two = (cloze_pair(1, "test", rung, index, wordings=w) for w in (telling.TRAINED, telling.UNTRAINED))
        assert one.pair.stories == two.pair.stories
        assert not set(one.endings) & set(two.endings)
        for story, old, new in zip(one.pair.stories, one.prompts, two.prompts, strict=True):
            named = [event.kind in ("arrive", "take", "put") for event in story.events]
            assert all(a != b for a, b, n in zip(old, new, named, strict=True) if n)


def test_the_same_numbers_give_the_same_stories() -> None:
    """If this fails by intention, raise corpus.VERSION, so that no folder mixes old stories with new ones."""
    told = [training_story(1, "text", index, MIX).text for index in range(40)]
    told += [str(cloze_pair(1, "test", rung, 0).prompts) for rung in RUNGS]
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    assert (VERSION, digest) == (1, "1873ae1eda442e7d")
    assert training_story(1, "text", 7, MIX).text != training_story(2, "text", 7, MIX).text
    assert training_story(1, "text", 7, MIX).text != training_story(1, "speech", 7, MIX).text


@pytest.mark.parametrize("name", ["flite-slt", "espeak-en-us+f4", "flite-awb@0.9"])
def test_voices_have_names(name: str) -> None:
    assert name.startswith(parse_voice(name).engine)


@pytest.mark.parametrize("name", ["slt", "flite-bdl", "espeak-en-us+f3", "flite-slt@2.0", "flite-slt/../x"])
def test_unknown_voices_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no voice: flite-slt|0\.7 to 1\.4"):
        parse_voice(name)


def test_phones_by_a_voice_that_is_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """eSpeak NG would go on with the voice before, and crash where there was none."""
    monkeypatch.setattr(espeak, "_library", lambda: SimpleNamespace(espeak_SetVoiceByName=lambda name: 2))
    with pytest.raises(ValueError, match="no voice 'en-gb'"):
        espeak.ipa("hello", "en-gb")
