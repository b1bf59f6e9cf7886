"""Scored choices in records and out of them: every item's log-likelihoods, so that no measure needs the checkpoint again.

What is the task's alone (names, groups, clusters, answers, lengths) is written once beside the runs, as `tasks/NAME.json`; a run
keeps its log-likelihoods, and its own counts of elements where a unit BPE makes them differ.
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
        cost = _join(",".join(str(round(-PER_NAT * e.log_prob)) for e in item.endings) for item in members)
        found[direction] = {"hundredths_of_nats": cost}
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
        texts = known["ids"], kept["hundredths_of_nats"], kept.get("elements", known["elements"]), known["length"]
        for name, costs, elements, length in zip(*(text.split() for text in texts), strict=True):
            at = place[name]
            values = zip(costs.split(","), elements.split(","), length.split(","), strict=True)
            found.append(
                Scored(
                    id=name, group=columns["group"][at], direction=direction, answer=int(columns["answer"][at]),
                    endings=tuple(_ending(*value) for value in values), cluster=columns["cluster"][at],
                    choice=columns["choice"][at],
                )
            )  # fmt: skip
    return found


def _ending(cost: str, elements: str, length: str) -> EndingScore:
    return EndingScore(
        log_prob=-int(cost) / PER_NAT,
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
