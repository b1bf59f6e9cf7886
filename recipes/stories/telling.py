"""How events and endings are worded: several paraphrases each, chosen by a style that both stories of a pair share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recipes.stories.lexicon import IDLE, PLACES, PRONOUN
from recipes.stories.problems import PROBLEMS
from recipes.stories.world import Ending, Event, opens


@dataclass(frozen=True, kw_only=True)
class Wordings:
    """How the events and endings that name people, places and things may be worded."""

    arrive: tuple[str, ...]
    take: tuple[str, ...]
    put: tuple[str, ...]
    leave: tuple[str, ...]
    carry: tuple[str, ...]
    find: tuple[str, ...]
    smile: tuple[str, ...]


TRAINED = Wordings(
    arrive=(
        "{p} and {q} were {at}.",
        "One morning {p} and {q} were {at}.",
        "{p} met {q} {at}.",
        "In the afternoon {p} was with {q} {at}.",
        "{p} and {q} spent the day {at}.",
        "On Sunday {p} and {q} were {at}.",
    ),
    take=(
        "{p} took the {x}.",
        "{p} picked up the {x}.",
        "{p} got hold of the {x}.",
        "{p} chose the {x}.",
        "{p} grabbed the {x}.",
    ),
    put=(
        "{p} put the {x} {spot}.",
        "{p} left the {x} {spot}.",
        "{p} laid the {x} {spot}.",
        "{p} placed the {x} {spot}.",
        "{p} set down the {x} {spot}.",
    ),
    leave=(
        "At last {p} left {to}.",
        "{p} never forgot the day {at}.",
        "It had been a good day {at}.",
        "{p} wanted to come back to {to}.",
        "{p} wanted to stay {at}.",
    ),
    carry=(
        "{p} carried the {x} home.",
        "At last {p} went home with the {x}.",
        "{p} kept the {x}.",
        "Now {p} had the {x}.",
        "{p} still held the {x}.",
    ),
    find=(
        "Now the {x} was {spot}.",
        "{p} found the {x} {spot}.",
        "In the evening the {x} was still {spot}.",
        "{p} saw the {x} {spot}.",
        "The next day the {x} lay {spot}.",
    ),
    smile=(
        "At last {p} went home.",
        "{p} was glad about the day.",
        "In the evening {p} felt happy.",
        "{p} said goodbye.",
    ),
)
"""Of all stories that a model is trained on."""
UNTRAINED = Wordings(
    arrive=(
        "In the evening {p} and {q} were still {at}.",
        "The next day {p} was {at} with {q}.",
        "{q} saw {p} {at}.",
        "{p} and {q} had come to {to}.",
        "{q} and {p} walked around {at}.",
    ),
    take=(
        "{p} wanted the {x} and took it.",
        "{p} found the {x} and held it.",
        "{p} went and picked the {x} up.",
        "{p} saw the {x} and grabbed it.",
        "{p} looked for the {x} and got it.",
    ),
    put=(
        "{p} went and left the {x} {spot}.",
        "{p} held the {x} and put it {spot}.",
        "{p} took the {x} and laid it {spot}.",
        "The {x} was placed {spot} by {p}.",
        "{p} went and put the {x} down {spot}.",
    ),
    leave=(
        "In the evening {p} was still {at}.",
        "{p} was happy {at}.",
        "{p} had a good time {at}.",
        "{p} said goodbye to {to}.",
        "The day {at} had been good.",
    ),
    carry=(
        "{p} was glad about the {x}.",
        "In the evening {p} had the {x}.",
        "{p} took the {x} home.",
        "{p} never lost the {x}.",
        "The {x} went home with {p}.",
    ),
    find=(
        "The {x} was put {spot}.",
        "At last the {x} was {spot}.",
        "{p} forgot the {x} {spot}.",
        "All day the {x} lay {spot}.",
        "The {x} was found {spot}.",
    ),
    smile=(
        "{p} had a good time.",
        "{p} was happy about it all.",
        "Now {p} was glad.",
        "It had been a good day for {p}.",
        "{p} left in the evening.",
    ),
)
"""Of none of them, in words that these have: what a model knows of stories apart from the sentences that they were told in."""
RETOLD = ("place", "person", "object", "spot", "holder", "binding")
"""The rungs whose deciding sentences, and endings, have untrained wordings."""
OPEN = ("{p} opened the {x}.", "{p} went and opened the {x}.", "{p} pushed the {x} open.")
SHUT = ("{p} shut the {x}.", "{p} went and shut the {x}.", "{p} pushed the {x} shut.")
TURN_ON = ("{p} turned on the {x}.", "{p} switched the {x} on.", "{p} went and turned the {x} on.")
TURN_OFF = ("{p} turned off the {x}.", "{p} switched the {x} off.", "{p} went and turned the {x} off.")
IS_OPEN = ("Now the {x} was open.", "In the end the {x} stood open.", "{p} saw that the {x} was open.")
IS_SHUT = ("Now the {x} was shut.", "In the end the {x} stayed shut.", "{p} saw that the {x} was shut.")
IS_ON = ("Now the {x} was on.", "In the end the {x} was on.", "{p} saw that the {x} was on.")
IS_OFF = ("Now the {x} was off.", "In the end the {x} was off.", "{p} saw that the {x} was off.")
LINKS = ("", "", "", "Then ", "After that ", "A little later ", "Soon ", "Next ")
"""What a sentence within a story may begin with."""

FORMS = {
    "she": {"his": "her", "him": "her", "he": "She"},
    "he": {"his": "his", "him": "him", "he": "He"},
}


@dataclass(frozen=True, kw_only=True)
class Style:
    """The choices of one telling: for each sentence three numbers in [0, 1): wording, link, pronoun."""

    draws: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, sentences: int) -> Style:
        """A random style of so many sentences, the ending included."""
        return cls(draws=rng.random((sentences, 3)))

    def pick(self, options: tuple[str, ...], sentence: int, column: int = 0) -> str:
        """One of the options; the same for options of equal number."""
        return options[int(self.draws[sentence, column] * len(options))]


def tell(events: tuple[Event, ...], people: tuple[str, ...], style: Style, wordings: Wordings = TRAINED) -> list[str]:
    """A sentence per event. A pronoun may stand for whoever was the subject of the sentence before."""
    sentences: list[str] = []
    subject = ""
    same_form = PRONOUN[people[0]] == PRONOUN[people[1]]
    for number, event in enumerate(events):
        template = style.pick(_wordings(event, wordings), number)
        name = people[event.who]
        values = _values(event.who, event.thing, event.where, people)
        linked = event.kind not in ("arrive", "scene") and wordings is TRAINED
        link = style.pick(LINKS, number, 1) if linked else ""
        repeated = name == subject and template.startswith("{p}") and not template.startswith("{p} and")
        if repeated and not same_form and style.draws[number, 2] < 0.5:
            he = FORMS[PRONOUN[name]]["he"]
            values["p"] = he.lower() if link else he
        sentences.append(_join(link, template, values))
        subject = name if template.startswith("{p} ") and event.kind not in ("arrive", "scene") else ""
    return sentences


def tell_ending(ending: Ending, people: tuple[str, ...], style: Style, wordings: Wordings = TRAINED) -> str:
    """The sentence of an ending."""
    template = style.pick(_ending_wordings(ending, wordings), len(style.draws) - 1)
    return template.format(**_values(ending.who, ending.thing, ending.where, people))


def _wordings(event: Event, wordings: Wordings) -> tuple[str, ...]:
    if event.kind == "switch":
        if opens(event.thing):
            return OPEN if event.where == "on" else SHUT
        return TURN_ON if event.where == "on" else TURN_OFF
    if event.kind == "scene":
        return (PLACES[event.where].scenery[int(event.thing)],)
    if event.kind == "problem":
        return PROBLEMS[event.thing].arises
    if event.kind == "solve":
        return PROBLEMS[event.thing].solved
    if event.kind == "idle":
        return IDLE[event.thing]
    return {"arrive": wordings.arrive, "take": wordings.take, "put": wordings.put}[event.kind]


def _ending_wordings(ending: Ending, wordings: Wordings) -> tuple[str, ...]:
    if ending.kind == "state":
        if opens(ending.thing):
            return IS_OPEN if ending.where == "on" else IS_SHUT
        return IS_ON if ending.where == "on" else IS_OFF
    if ending.kind == "solve":
        return PROBLEMS[ending.thing].solved
    return {"leave": wordings.leave, "carry": wordings.carry, "find": wordings.find, "smile": wordings.smile}[
        ending.kind
    ]


def _values(who: int, thing: str, where: str, people: tuple[str, ...]) -> dict[str, str]:
    place = PLACES.get(where)
    forms: Mapping[str, str] = FORMS[PRONOUN[people[who]]]
    return {
        "p": people[who],
        "q": people[1 - who] if who < 2 else people[1],
        "his": forms["his"],
        "him": forms["him"],
        "x": thing,
        "spot": where,
        "at": place.at if place else "",
        "to": place.to if place else "",
    }


def _join(link: str, template: str, values: Mapping[str, str]) -> str:
    text = template.format(**values)
    first = text.split()[0]
    keep = not link or first in PRONOUN
    return link + (text if keep else text[0].lower() + text[1:])
