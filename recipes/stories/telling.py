"""How events and endings are worded: several paraphrases each, chosen by a style that both stories of a pair share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recipes.stories.lexicon import IDLE, PLACES, PRONOUN
from recipes.stories.problems import PROBLEMS
from recipes.stories.world import Ending, Event, opens

ARRIVE = (
    "{p} and {q} were {at}.",
    "One morning {p} and {q} were {at}.",
    "{p} met {q} {at}.",
    "In the afternoon {p} was with {q} {at}.",
    "{p} and {q} spent the day {at}.",
    "On Sunday {p} and {q} were {at}.",
)
TAKE = (
    "{p} took the {x}.",
    "{p} picked up the {x}.",
    "{p} got hold of the {x}.",
    "{p} chose the {x}.",
    "{p} grabbed the {x}.",
)
PUT = (
    "{p} put the {x} {spot}.",
    "{p} left the {x} {spot}.",
    "{p} laid the {x} {spot}.",
    "{p} placed the {x} {spot}.",
    "{p} set down the {x} {spot}.",
)
OPEN = ("{p} opened the {x}.", "{p} went and opened the {x}.", "{p} pushed the {x} open.")
SHUT = ("{p} shut the {x}.", "{p} went and shut the {x}.", "{p} pushed the {x} shut.")
TURN_ON = ("{p} turned on the {x}.", "{p} switched the {x} on.", "{p} went and turned the {x} on.")
TURN_OFF = ("{p} turned off the {x}.", "{p} switched the {x} off.", "{p} went and turned the {x} off.")

LEAVE = (
    "At last {p} left {to}.",
    "{p} never forgot the day {at}.",
    "It had been a good day {at}.",
    "{p} wanted to come back to {to}.",
    "{p} wanted to stay {at}.",
)
CARRY = (
    "{p} carried the {x} home.",
    "At last {p} went home with the {x}.",
    "{p} kept the {x}.",
    "Now {p} had the {x}.",
    "{p} still held the {x}.",
)
FIND = (
    "Now the {x} was {spot}.",
    "{p} found the {x} {spot}.",
    "In the evening the {x} was still {spot}.",
    "{p} saw the {x} {spot}.",
    "The next day the {x} lay {spot}.",
)
IS_OPEN = ("Now the {x} was open.", "In the end the {x} stood open.", "{p} saw that the {x} was open.")
IS_SHUT = ("Now the {x} was shut.", "In the end the {x} stayed shut.", "{p} saw that the {x} was shut.")
IS_ON = ("Now the {x} was on.", "In the end the {x} was on.", "{p} saw that the {x} was on.")
IS_OFF = ("Now the {x} was off.", "In the end the {x} was off.", "{p} saw that the {x} was off.")
SMILE = (
    "At last {p} went home.",
    "{p} was glad about the day.",
    "In the evening {p} felt happy.",
    "{p} said goodbye.",
)
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


def tell(events: tuple[Event, ...], people: tuple[str, ...], style: Style) -> list[str]:
    """A sentence per event. A pronoun may stand for whoever was the subject of the sentence before."""
    sentences: list[str] = []
    subject = ""
    same_form = PRONOUN[people[0]] == PRONOUN[people[1]]
    for number, event in enumerate(events):
        template = style.pick(_wordings(event), number)
        name = people[event.who]
        values = _values(event.who, event.thing, event.where, people)
        link = style.pick(LINKS, number, 1) if event.kind not in ("arrive", "scene") else ""
        repeated = name == subject and template.startswith("{p}") and not template.startswith("{p} and")
        if repeated and not same_form and style.draws[number, 2] < 0.5:
            he = FORMS[PRONOUN[name]]["he"]
            values["p"] = he.lower() if link else he
        sentences.append(_join(link, template, values))
        subject = name if template.startswith("{p} ") and event.kind not in ("arrive", "scene") else ""
    return sentences


def tell_ending(ending: Ending, people: tuple[str, ...], style: Style) -> str:
    """The sentence of an ending."""
    template = style.pick(_ending_wordings(ending), len(style.draws) - 1)
    return template.format(**_values(ending.who, ending.thing, ending.where, people))


def _wordings(event: Event) -> tuple[str, ...]:
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
    return {"arrive": ARRIVE, "take": TAKE, "put": PUT}[event.kind]


def _ending_wordings(ending: Ending) -> tuple[str, ...]:
    if ending.kind == "state":
        if opens(ending.thing):
            return IS_OPEN if ending.where == "on" else IS_SHUT
        return IS_ON if ending.where == "on" else IS_OFF
    if ending.kind == "solve":
        return PROBLEMS[ending.thing].solved
    return {"leave": LEAVE, "carry": CARRY, "find": FIND, "smile": SMILE}[ending.kind]


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
