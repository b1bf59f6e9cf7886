"""Scored choices in records and out of them: every item's log-likelihoods, so that no measure needs the checkpoint again.

What is the task's alone (names, groups, clusters, answers, lengths) is written once beside the runs, as `tasks/NAME.json`; a run
keeps its log-likelihoods, and its own counts of elements where a unit BPE makes them differ.

Log-likelihoods are most of what a study keeps, and all but their first digits are as good as random. Digits of one place beside
each other, in base 16, leave a compressed record 17 % smaller than numbers one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, get_args

from model.scoring.documents import Direction
from model.scoring.scorer import EndingScore, Scored

PER_NAT = 100
"""Log-likelihoods are kept as whole hundredths of a nat, without their sign: far below what tells two endings apart."""


def task_facts(scored: Sequence[Scored]) -> dict[str, Any]:
    """The items of a task as one run scored them. Lists are strings with spaces between, an item's endings have commas."""
    items = list({item.id: item for item in scored}.values())
    directions = {
        direction: {
            "ids": _join(item.id for item in members),
            "elements": _join(",".join(str(e.elements) for e in item.endings) for item in members),
            "length": _join(",".join(f"{e.length:.4g}" for e in item.endings) for item in members),
        }
        for direction, members in _by_direction(scored).items()
    }
    columns = {
        name: _join(getattr(item, name) for item in items) for name in ("id", "group", "cluster", "choice", "answer")
    }
    return {"items": columns, "directions": directions}


def log_probs(scored: Sequence[Scored], facts: dict[str, Any]) -> dict[str, Any]:
    """What a run adds to the task's facts: per direction, in their order, the log-likelihood of every ending."""
    found: dict[str, Any] = {}
    for direction, members in _by_direction(scored).items():
        known = facts["directions"][direction]
        assert known["ids"] == _join(item.id for item in members), "all runs score the same items"
        costs = [round(-PER_NAT * ending.log_prob) for item in members for ending in item.endings]
        found[direction] = {"hundredths_of_nats": places_of(costs)}
        elements = _join(",".join(str(e.elements) for e in item.endings) for item in members)
        if elements != known["elements"]:
            found[direction]["elements"] = elements
    return found


def read_scored(facts: dict[str, Any], run: dict[str, Any]) -> list[Scored]:
    """A run's items, up to the rounding; the joint likelihood of prompt and ending was not kept."""
    columns = {name: text.split() for name, text in facts["items"].items()}
    place = {name: number for number, name in enumerate(columns["id"])}
    found = []
    for direction in (d for d in get_args(Direction) if d in run):
        kept = run[direction]
        known = facts["directions"][direction]
        texts = known["ids"], kept.get("elements", known["elements"]), known["length"]
        costs = iter(numbers_of(kept["hundredths_of_nats"]))
        for name, elements, length in zip(*(text.split() for text in texts), strict=True):
            at = place[name]
            values = [(next(costs), *facts) for facts in zip(elements.split(","), length.split(","), strict=True)]
            found.append(
                Scored(
                    id=name, group=columns["group"][at], direction=direction, answer=int(columns["answer"][at]),
                    endings=tuple(_ending(*value) for value in values), cluster=columns["cluster"][at],
                    choice=columns["choice"][at],
                )
            )  # fmt: skip
        assert next(costs, None) is None, "as many log-likelihoods as endings"
    return found


def places_of(numbers: Sequence[int]) -> list[str]:
    """Whole numbers, none below nothing, as digits in base 16: a string for each place, the highest first."""
    width = len(f"{max(numbers, default=0):x}")
    return ["".join(digits) for digits in zip(*(f"{number:0{width}x}" for number in numbers), strict=True)]


def numbers_of(places: Sequence[str] | str) -> list[int]:
    """The numbers of :func:`places_of`, or of a record until 2026-11-28: decimal, between commas and spaces."""
    if isinstance(places, str):
        return [int(number) for number in places.replace(",", " ").split()]
    return [int("".join(digits), 16) for digits in zip(*places, strict=True)]


def _ending(cost: int, elements: str, length: str) -> EndingScore:
    return EndingScore(
        log_prob=-cost / PER_NAT,
        elements=int(elements),
        length=float(length),
        joint=float("nan"),
        joint_elements=1,
    )


def _by_direction(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    return {d: [item for item in scored if item.direction == d] for d in dict.fromkeys(i.direction for i in scored)}


def _join(values: Iterable[Any]) -> str:
    texts = [str(value) for value in values]
    assert not any(" " in text or not text for text in texts), "names of items and groups have no spaces"
    return " ".join(texts)
