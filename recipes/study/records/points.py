"""The points of scored choices in records: a character per item, and only where the log-likelihoods kept beside do not give it.

Of 61,440 points of a run on the ladder all but about 400 follow from its log-likelihoods to a hundredth of a nat.
"""

from __future__ import annotations

from collections.abc import Sequence

from model.scoring.scorer import NORMALISATIONS, Normalisation, Scored

CHARACTERS = {0.0: "0", 0.5: "5", 1.0: "1"}

Points = dict[str, dict[str, dict[str, str]]]
"""group -> direction -> normalisation -> a character per item, in the task's order: 1 right, 5 a tie of two, 0 wrong."""
Departures = dict[str, dict[str, str]]
"""direction -> normalisation -> `place:character` of every item, counted over all groups, that has another point than what stands
for it: its own of the rounded log-likelihoods, and for `whole`, whose likelihood is not kept, its point of `token`."""


def points_of(scored: Sequence[Scored]) -> Points:
    """The points of every item."""
    found: Points = {}
    for item in scored:
        strings = found.setdefault(item.group, {}).setdefault(item.direction, dict.fromkeys(NORMALISATIONS, ""))
        for normalisation in NORMALISATIONS:
            strings[normalisation] += CHARACTERS[item.point(normalisation)]
    return found


def departures(points: Points, kept: Sequence[Scored]) -> Departures:
    """What must stand beside the log-likelihoods `kept` for `points_with` to give `points`."""
    places = _places(kept)
    found: Departures = {}
    for direction, members in places.items():
        exact = {n: [points[group][direction][n][at] for _, group, at in members] for n in NORMALISATIONS}
        found[direction] = {
            n: " ".join(
                f"{place}:{character}"
                for place, (character, stand) in enumerate(zip(exact[n], _stand_ins(n, members, exact), strict=True))
                if character != stand
            )
            for n in NORMALISATIONS
        }
    return found


def points_with(kept: Sequence[Scored], changed: Departures) -> Points:
    """The points of the items before their log-likelihoods were rounded."""
    found: Points = {}
    for direction, members in _places(kept).items():
        exact: dict[Normalisation, list[str]] = {}
        for n in NORMALISATIONS:  # `whole` after `token`, which stands for it
            exact[n] = list(_stand_ins(n, members, exact))
            for place, character in (entry.split(":") for entry in changed[direction][n].split()):
                exact[n][int(place)] = character
        for n in NORMALISATIONS:
            for character, (_, group, _) in zip(exact[n], members, strict=True):
                strings = found.setdefault(group, {}).setdefault(direction, dict.fromkeys(NORMALISATIONS, ""))
                strings[n] += character
    return found


def _places(scored: Sequence[Scored]) -> dict[str, list[tuple[Scored, str, int]]]:
    """direction -> its items in order, each with its group and its place there."""
    found: dict[str, list[tuple[Scored, str, int]]] = {}
    counts: dict[tuple[str, str], int] = {}
    for item in scored:
        at = counts.get((item.direction, item.group), 0)
        counts[item.direction, item.group] = at + 1
        found.setdefault(item.direction, []).append((item, item.group, at))
    return found


def _stand_ins(
    n: Normalisation, members: list[tuple[Scored, str, int]], exact: dict[Normalisation, list[str]]
) -> list[str]:
    return list(exact["token"]) if n == "whole" else [CHARACTERS[item.point(n)] for item, _, _ in members]
