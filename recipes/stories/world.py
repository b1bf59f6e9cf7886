"""What happens in a story, and what is true after it: events with preconditions and effects, endings that follow or do not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

from recipes.stories.lexicon import OPENABLE

EventKind = Literal["arrive", "idle", "scene", "problem", "solve", "take", "put", "switch"]
EndingKind = Literal["solve", "leave", "carry", "find", "state", "smile"]


class Impossible(ValueError):
    """An event whose preconditions do not hold."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One sentence of a story."""

    kind: EventKind
    who: int = 0
    """Index into the story's people."""
    thing: str = ""
    """The object, device, problem, idle deed, or number of the scenery's sentence."""
    where: str = ""
    """put: a spot; switch: "on" or "off" (on is open); arrive and scene: the place."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What is claimed after the story."""

    kind: EndingKind
    who: int = 0
    thing: str = ""
    where: str = ""


@dataclass
class State:
    """What is true at some moment of a story."""

    place: str = ""
    people: set[int] = field(default_factory=set)
    things: set[str] = field(default_factory=set)
    """Everything that was handled so far."""
    holder: dict[str, int] = field(default_factory=dict)
    spot: dict[str, str] = field(default_factory=dict)
    switched: dict[str, str] = field(default_factory=dict)
    """Device -> "on" or "off"; a device nobody touched is missing."""
    open_problems: set[tuple[str, int]] = field(default_factory=set)
    solved: set[tuple[str, int]] = field(default_factory=set)

    def apply(self, event: Event) -> None:
        """Let an event happen.

        Raises:
            Impossible: its preconditions do not hold.
        """
        if event.kind == "arrive":
            _require(not self.place, event)
            self.place, self.people = event.where, {0, 1}
            return
        _require(bool(self.place) and event.who in self.people, event)
        problem = (event.thing, event.who)
        if event.kind == "problem":
            _require(problem not in self.open_problems | self.solved, event)
            self.open_problems.add(problem)
        elif event.kind == "solve":
            _require(problem in self.open_problems, event)
            self.open_problems.remove(problem)
            self.solved.add(problem)
        elif event.kind == "take":
            _require(self.holder.get(event.thing) is None, event)
            self.holder[event.thing] = event.who
            self.spot.pop(event.thing, None)
            self.things.add(event.thing)
        elif event.kind == "put":
            _require(self.holder.get(event.thing, event.who) == event.who, event)
            self.holder.pop(event.thing, None)
            self.spot[event.thing] = event.where
            self.things.add(event.thing)
        elif event.kind == "switch":
            _require(self.switched.get(event.thing) != event.where, event)
            self.switched[event.thing] = event.where
            self.things.add(event.thing)
        elif event.kind == "scene":
            _require(event.where == self.place, event)

    def follows(self, ending: Ending) -> bool:
        """Whether an ending follows from what is true."""
        checks = {
            "solve": (ending.thing, ending.who) in self.open_problems,
            "leave": ending.where == self.place,
            "carry": self.holder.get(ending.thing) == ending.who,
            "find": self.spot.get(ending.thing) == ending.where,
            "state": self.switched.get(ending.thing) == ending.where,
            "smile": True,
        }
        return ending.who in self.people and checks[ending.kind]


def _require(holds: bool, event: Event) -> None:
    if not holds:
        raise Impossible(f"{event} cannot happen here")


def replay(events: tuple[Event, ...]) -> State:
    """The state after some events.

    Raises:
        Impossible: they cannot happen in this order.
    """
    state = State()
    for event in events:
        state.apply(event)
    return state


def skeleton(events: tuple[Event, ...]) -> str:
    """32 hex digits that name the sequence of event types with their bindings: who (by number), what and where.

    Names of people, wording and the ending do not enter, so all tellings of a story have one skeleton. The two people are
    numbered by their first deed: a story with its people exchanged throughout is the same story.
    """
    numbers: dict[int, int] = {}
    parts = []
    for event in events:
        acts = event.kind not in ("arrive", "scene")
        who = numbers.setdefault(event.who, len(numbers)) if acts else -1
        parts.append(f"{event.kind}:{who}:{event.thing}:{event.where}")
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]


def opens(device: str) -> bool:
    """Whether a device is opened and shut, rather than turned on and off."""
    return device in OPENABLE
