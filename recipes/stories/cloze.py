"""Pairs of stories that differ in one thing, and the two endings that tell them apart: the ladder of difficulty.

Each pair gives two cloze items with the same two endings: what is right after the first story is wrong after the second. So
every ending is right as often as it is wrong, and nothing that looks at endings alone can be better than chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from recipes.stories.lexicon import IDLE, NAMES, PLACES, PRONOUN, THINGS
from recipes.stories.problems import PROBLEMS, problems_at
from recipes.stories.telling import Style
from recipes.stories.world import Ending, Event

T = TypeVar("T")

NUM_EVENTS = 4
"""Of a story, unless a corpus says otherwise. The first is always an arrival."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """Events, who their people are (the third is a stranger), and both endings of the pair as this story numbers people."""

    events: tuple[Event, ...]
    people: tuple[str, str, str]
    endings: tuple[Ending, Ending]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two stories told in one style. Ending 0 follows from story 0 and not from story 1; ending 1 the other way round."""

    rung: str
    stories: tuple[Story, Story]
    style: Style


def draw_pair(rung: str, rng: np.random.Generator, num_events: int = NUM_EVENTS) -> Pair:
    """A random pair of a rung, of stories of `num_events` sentences before the ending.

    Raises:
        ValueError: the rung's stories cannot be so short.
    """
    if num_events < least_events(rung):
        raise ValueError(f"stories of rung {rung!r} have at least {least_events(rung)} events, not {num_events}")
    return Pair(rung=rung, stories=RUNGS[rung](rng, num_events), style=Style.draw(rng, num_events + 1))


def least_events(rung: str) -> int:
    """The fewest events in which a rung can be told: those on two places after the arrival need four."""
    return 4 if rung in ("unsolved", "order", "holder", "binding") else 2


def _pick(rng: np.random.Generator, options: tuple[T, ...] | list[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _two(rng: np.random.Generator, options: tuple[T, ...] | list[T]) -> tuple[T, T]:
    first = int(rng.integers(len(options)))
    second = int(rng.integers(len(options) - 1))
    return options[first], options[second + (second >= first)]


def _people(rng: np.random.Generator) -> tuple[str, str, str]:
    """Two people and a stranger who goes by the first one's pronoun."""
    everyone = list(PRONOUN)
    first, second = _two(rng, everyone)
    others = [name for name in NAMES[PRONOUN[first]] if name not in (first, second)]
    return first, second, _pick(rng, others)


def _slots(rng: np.random.Generator) -> tuple[int, int]:
    """Two of the three places after the arrival, in order."""
    skipped = int(rng.integers(1, 4))
    first, second = (slot for slot in range(1, 4) if slot != skipped)
    return first, second


class _Draft:
    """A story of which some events are set; the rest becomes things of no consequence."""

    def __init__(
        self, rng: np.random.Generator, num_events: int, place: str, core: dict[int, Event], neutral: bool = False
    ) -> None:
        """`neutral`: nothing but the arrival may give the place away."""
        self.rng, self.num_events, self.place, self.neutral = rng, num_events, place, neutral
        self.core = core
        self.used = {event.thing for event in core.values()}

    def events(self, reserved: tuple[str, ...] = ()) -> tuple[Event, ...]:
        """All events; fillers touch nothing that the core or `reserved` names."""
        self.used |= set(reserved)
        first = Event(kind="arrive", where=self.place)
        return (first, *(self.core.get(slot) or self._filler() for slot in range(1, self.num_events)))

    def _filler(self) -> Event:
        kind = _pick(self.rng, FILLERS_NEUTRAL if self.neutral else FILLERS)
        who = int(self.rng.integers(2))
        place = PLACES[self.place]
        if kind == "idle":
            return Event(kind="idle", who=who, thing=self._unused(tuple(IDLE)))
        if kind == "scene":
            numbers = tuple(str(number) for number in range(len(place.scenery)))
            return Event(kind="scene", thing=self._unused(numbers), where=self.place)
        if kind == "switch":
            return Event(
                kind="switch", who=who, thing=self._unused(place.devices), where=_pick(self.rng, ["on", "off"])
            )
        if kind == "put":
            return Event(kind="put", who=who, thing=self._unused(THINGS), where=_pick(self.rng, place.spots))
        return Event(kind="take", who=who, thing=self._unused(THINGS))

    def _unused(self, options: tuple[str, ...]) -> str:
        found = _pick(self.rng, [option for option in options if option not in self.used])
        self.used.add(found)
        return found


FILLERS = ("idle", "idle", "idle", "scene", "scene", "switch", "put", "take")
FILLERS_NEUTRAL = ("idle", "idle", "idle", "take")


def _swap(events: tuple[Event, ...], changed: dict[int, Event]) -> tuple[Event, ...]:
    return tuple(changed.get(slot, event) for slot, event in enumerate(events))


def _both(
    people: tuple[str, str, str],
    first: tuple[Event, ...],
    second: tuple[Event, ...],
    endings: tuple[Ending, Ending],
) -> tuple[Story, Story]:
    return (
        Story(events=first, people=people, endings=endings),
        Story(events=second, people=people, endings=endings),
    )


def _place(rng: np.random.Generator) -> str:
    return _pick(rng, tuple(PLACES))


def topic(rng: np.random.Generator, num_events: int) -> tuple[Story, Story]:
    """The same people elsewhere, with other things: the wrong ending is another story's."""
    people, who = _people(rng), int(rng.integers(2))
    places = _two(rng, tuple(PLACES))
    stories, endings = [], []
    for place, other in (places, places[::-1]):
        slot = int(rng.integers(1, num_events))
        if rng.random() < 0.5:
            own = [key for key in problems_at(place) if PROBLEMS[key].places and key not in problems_at(other)]
            thing = _pick(rng, own)
            core, ending = (
                Event(kind="problem", who=who, thing=thing),
                Ending(kind="solve", who=who, thing=thing),
            )
        else:
            thing = _pick(rng, [thing for thing in PLACES[place].things if thing not in PLACES[other].things])
            core, ending = Event(kind="take", who=who, thing=thing), Ending(kind="carry", who=who, thing=thing)
        stories.append(_Draft(rng, num_events, place, {slot: core}).events())
        endings.append(ending)
    return _both(people, stories[0], stories[1], (endings[0], endings[1]))


def _consequence(rng: np.random.Generator, num_events: int, slot: int) -> tuple[Story, Story]:
    people, place, who = _people(rng), _place(rng), int(rng.integers(2))
    problems = _two(rng, problems_at(place))
    cores = [Event(kind="problem", who=who, thing=problem) for problem in problems]
    first = _Draft(rng, num_events, place, {slot: cores[0]}).events()
    first_ending, second_ending = (Ending(kind="solve", who=who, thing=problem) for problem in problems)
    return _both(people, first, _swap(first, {slot: cores[1]}), (first_ending, second_ending))


def last(rng: np.random.Generator, num_events: int) -> tuple[Story, Story]:
    """What follows from the last event."""
    return _consequence(rng, num_events, num_events - 1)


def early(rng: np.random.Generator, num_events: int) -> tuple[Story, Story]:
    """What follows from the first event; two events of no consequence lie between."""
    return _consequence(rng, num_events, 1)


def object_(rng: np.random.Generator, num_events: int) -> tuple[Story, Story]:
    """The ending names the thing that was taken, or another thing of such a place."""
    people, place, who = _people(rng), _place(rng), int(rng.integers(2))
    things = _two(rng, _pick(rng, [PLACES[place].things, THINGS]))
    slot = int(rng.integers(1, num_events))
    cores = [Event(kind="take", who=who, thing=thing) for thing in things]
    first = _Draft(rng, num_events, place, {slot: cores[0]}).events(reserved=things)
    endings = (
        Ending(kind="carry", who=who, thing=things[0]),
        Ending(kind="carry", who=who, thing=things[1]),
    )
    return _both(people, first, _swap(first, {slot: cores[1]}), endings)


def spot(rng: np.random.Generator, num_events: int) -> tuple[Story, Story]:
    """The ending names where the thing was put, or another spot of this place that the story does not name."""
    people, place, who = _people(rng), _place(rng), int(rng.integers(2))
    thing = _pick(rng, _pick(rng, [PLACES[place].things, THINGS]))
    spots = _two(rng, PLACES[place].spots)
    slot = int(rng.integers(1, num_events))
    cores = [Event(kind="put", who=who, thing=thing, where=where) for where in spots]
    first = _Draft(rng, num_events, place, {slot: cores[0]}, neutral=True).events()
    endings = (
        Ending(kind="find", who=who, thing=thing, where=spots[0]),
        Ending(kind="find", who=who, thing=thing, where=spots[1]),
    )
    return _both(people, first, _swap(first, {slot: cores[1]}), endings)


def place(rng: np.random.Generator, num_events: int) -> tuple[Story, Story]:
    """The ending names the place, which only the first sentence does; the rest could happen anywhere."""
    people, who = _people(rng), int(rng.integers(2))
    places = _two(rng, tuple(PLACES))
    first = _Draft(rng, num_events, places[0], {}, neutral=True).events()
    endings = (
        Ending(kind="leave", who=who, where=places[0]),
        Ending(kind="leave", who=who, where=places[1]),
    )
    return _both(people, first, _swap(first, {0: Event(kind="arrive", where=places[1])}), endings)


def person(rng: np.random.Generator, num_events: int) -> tuple[Story, Story]:
    """The ending names one of the story's people, or a stranger who goes by the same pronoun."""
    people = _people(rng)
    events = _Draft(rng, num_events, _place(rng), {}).events()
    here, stranger = Ending(kind="smile", who=0), Ending(kind="smile", who=2)
    return (
        Story(events=events, people=people, endings=(here, stranger)),
        Story(events=events, people=(people[2], people[1], people[0]), endings=(stranger, here)),
    )


def unsolved(rng: np.random.Generator, num_events: int) -> tuple[Story, Story]:
    """Two problems arise and one is solved; the ending solves the other, or the solved one again."""
    people, where = _people(rng), _place(rng)
    problems = _two(rng, problems_at(where))
    whos = (int(rng.integers(2)), int(rng.integers(2)))
    rise = {
        slot + 1: Event(kind="problem", who=who, thing=problem)
        for slot, (who, problem) in enumerate(zip(whos, problems, strict=True))
    }
    solve = [Event(kind="solve", who=who, thing=problem) for who, problem in zip(whos, problems, strict=True)]
    endings = [Ending(kind="solve", who=event.who, thing=event.thing) for event in solve]
    first = _Draft(rng, num_events, where, {**rise, 3: solve[0]}).events()
    return _both(people, first, _swap(first, {3: solve[1]}), (endings[1], endings[0]))


def order(rng: np.random.Generator, num_events: int) -> tuple[Story, Story]:
    """A device is switched twice; the ending gives its last state, or the one before."""
    people, where = _people(rng), _place(rng)
    device = _pick(rng, PLACES[where].devices)
    slots = _slots(rng)
    whos = [int(rng.integers(2)), int(rng.integers(2))]

    def switches(states: tuple[str, str]) -> dict[int, Event]:
        return {
            slot: Event(kind="switch", who=who, thing=device, where=state)
            for slot, who, state in zip(slots, whos, states, strict=True)
        }

    first = _Draft(rng, num_events, where, switches(("on", "off"))).events()
    who = int(rng.integers(2))
    endings = (
        Ending(kind="state", who=who, thing=device, where="off"),
        Ending(kind="state", who=who, thing=device, where="on"),
    )
    return _both(people, first, _swap(first, switches(("off", "on"))), endings)


def holder(rng: np.random.Generator, num_events: int) -> tuple[Story, Story]:
    """Each of two people takes a thing; the ending says which one a person has."""
    people, where = _people(rng), _place(rng)
    things = _two(rng, _pick(rng, [PLACES[where].things, THINGS]))
    slots, leader = _slots(rng), int(rng.integers(2))

    def takes(given: tuple[str, str]) -> dict[int, Event]:
        return {
            slot: Event(kind="take", who=(leader + number) % 2, thing=thing)
            for number, (slot, thing) in enumerate(zip(slots, given, strict=True))
        }

    first = _Draft(rng, num_events, where, takes(things)).events()
    asked = int(rng.integers(2))
    held = things if asked == leader else things[::-1]
    endings = (
        Ending(kind="carry", who=asked, thing=held[0]),
        Ending(kind="carry", who=asked, thing=held[1]),
    )
    return _both(people, first, _swap(first, takes(things[::-1])), endings)


def binding(rng: np.random.Generator, num_events: int) -> tuple[Story, Story]:
    """Each of two people puts a thing somewhere; the ending says where one of the things is."""
    people, where = _people(rng), _place(rng)
    things = _two(rng, _pick(rng, [PLACES[where].things, THINGS]))
    spots = _two(rng, PLACES[where].spots)
    slots, leader = _slots(rng), int(rng.integers(2))

    def puts(given: tuple[str, str]) -> dict[int, Event]:
        return {
            slot: Event(kind="put", who=(leader + number) % 2, thing=things[number], where=given[number])
            for number, slot in enumerate(slots)
        }

    first = _Draft(rng, num_events, where, puts(spots), neutral=True).events()
    asked, who = int(rng.integers(2)), int(rng.integers(2))
    endings = (
        Ending(kind="find", who=who, thing=things[asked], where=spots[asked]),
        Ending(kind="find", who=who, thing=things[asked], where=spots[1 - asked]),
    )
    return _both(people, first, _swap(first, puts(spots[::-1])), endings)


RUNGS: dict[str, Callable[[np.random.Generator, int], tuple[Story, Story]]] = {
    "topic": topic,
    "last": last,
    "early": early,
    "place": place,
    "person": person,
    "object": object_,
    "spot": spot,
    "order": order,
    "unsolved": unsolved,
    "holder": holder,
    "binding": binding,
}
"""From what a word's company tells to what only the story's state tells."""
