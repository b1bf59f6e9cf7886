"""Where patches of speech end, learned from units: a table of contexts, looked up by the units so far.

A job fits it, patching reads it.
The score of a unit is looked up by the last k units of its span, for the largest k that was seen often enough (back-off). Two
kinds of score, each smoothed towards that of the context one unit shorter (Witten and Bell, 1991):

    words      the share of times a word or a silence ended here: a rule taught by aligned patches that needs none afterwards
    entropy    the entropy of the next unit in bits, as in the Byte Latent Transformer (arXiv 2412.09871, section 2.3), there
               with a small transformer in place of counts

A patch ends where the score reaches `threshold`, once it has `min_size` units, or at `max_size`. Contexts are numbers in base
`num_units`, exact and so without collisions; they must fit into 63 bits (nine units of 100, seven of 500).
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from schemas.config import ConfigError
from schemas.files import whole_file

Kind = Literal["words", "entropy"]
FORMAT = 1
WORD_PRIOR = 2.0
"""`words`: so many made-up occurrences of a context go the way of the shorter one."""
BLOCK = 4096
"""Contexts whose distribution over all units is held at once (`entropy`)."""


@dataclass(frozen=True, kw_only=True)
class BoundaryTable:
    """Scores by context, and the rule that cuts by them."""

    kind: Kind
    num_units: int
    contexts: tuple[np.ndarray, ...]
    """Per length k = 0 .. K: sorted int64 keys; of length 0 the empty context alone."""
    scores: tuple[np.ndarray, ...]
    """float32, beside `contexts`."""
    threshold: float
    min_size: int
    max_size: int

    def score(self, units: np.ndarray) -> np.ndarray:
        """float32 [t]: entry j rests on units[: j + 1] of the span alone.

        Raises:
            ConfigError: a unit that the table does not know.
        """
        if len(units) and int(units.max()) >= self.num_units:
            raise ConfigError(
                f"unit {int(units.max())} in speech, and the boundaries were fitted over {self.num_units}"
            )
        found = np.full(len(units), self.scores[0][0], dtype=np.float32)
        for length in range(1, len(self.contexts)):
            known, scores = self.contexts[length], self.scores[length]
            keys = context_keys(units, length, self.num_units)
            at = np.minimum(np.searchsorted(known, keys), max(len(known) - 1, 0))
            hit = known[at] == keys if len(known) else np.zeros(len(keys), dtype=bool)
            found[length - 1 :][hit] = scores[at[hit]]
        return found

    def ends(self, units: np.ndarray) -> np.ndarray:
        """bool [t]: a patch ends after unit j of the span; entry j depends on units[: j + 1] alone."""
        return cut(np.flatnonzero(self.score(units) >= self.threshold), len(units), self.min_size, self.max_size)

    def with_rule(self, threshold: float, min_size: int, max_size: int) -> BoundaryTable:
        """The same scores, cut otherwise."""
        if not 1 <= min_size <= max_size:
            raise ConfigError(f"patches of {min_size} to {max_size} units: give 1 <= least <= greatest")
        return BoundaryTable(
            kind=self.kind, num_units=self.num_units, contexts=self.contexts, scores=self.scores,
            threshold=threshold, min_size=min_size, max_size=max_size,
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write the .npz file."""
        facts = {
            "format": FORMAT, "kind": self.kind, "num_units": self.num_units, "orders": len(self.contexts),
            "threshold": self.threshold, "min_size": self.min_size, "max_size": self.max_size,
        }  # fmt: skip
        arrays: dict[str, Any] = {"facts": np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)}
        for k, (keys, scores) in enumerate(zip(self.contexts, self.scores, strict=True)):
            arrays |= {f"contexts.{k}": keys, f"scores.{k}": scores}
        with whole_file(Path(path)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @staticmethod
    def load(path: str | Path) -> BoundaryTable:
        """Read what `save` wrote.

        Raises:
            ConfigError: the file is missing or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                facts = json.loads(file["facts"].tobytes())
                if facts["format"] != FORMAT:
                    raise ConfigError(f"{path} is of format {facts['format']}, and this code reads {FORMAT}")
                orders = range(facts["orders"])
                return BoundaryTable(
                    kind=facts["kind"],
                    num_units=facts["num_units"],
                    contexts=tuple(file[f"contexts.{k}"] for k in orders),
                    scores=tuple(file[f"scores.{k}"] for k in orders),
                    threshold=facts["threshold"],
                    min_size=facts["min_size"],
                    max_size=facts["max_size"],
                )
        except FileNotFoundError as error:
            raise ConfigError(f"no boundaries at {path}", "fit some with `lst fit-boundaries`") from error
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ConfigError(f"{path} holds no boundaries: {error}", "fit some with `lst fit-boundaries`") from error


def cut(marks: np.ndarray, length: int, min_size: int, max_size: int) -> np.ndarray:
    """bool [length]: patches that end at the first mark once they have `min_size` units, or at `max_size`."""
    ends = np.zeros(length, dtype=bool)
    places = marks.tolist()
    start, at = 0, 0
    while start < length:  # one turn per patch: each end depends on the last
        earliest, latest = start + min_size - 1, start + max_size - 1
        while at < len(places) and places[at] < earliest:
            at += 1
        end = min(places[at], latest) if at < len(places) else latest
        if end < length:
            ends[end] = True
        start = end + 1
    return ends


def context_keys(units: np.ndarray, length: int, num_units: int) -> np.ndarray:
    """int64 [t - length + 1]: the last `length` units at each place that has so many, as one number."""
    units = np.asarray(units, dtype=np.int64)
    places = max(len(units) - length + 1, 0)
    keys = np.zeros(places, dtype=np.int64)
    for offset in range(length):
        keys = keys * num_units + units[offset : offset + places]
    return keys


def longest_context(num_units: int) -> int:
    """Units whose number fits into 63 bits."""
    length = 1
    while num_units ** (length + 1) < 2**63:
        length += 1
    return length


def fit(
    kind: Kind, spans: Sequence[np.ndarray], ends: Sequence[np.ndarray], *, num_units: int, order: int, min_count: int
) -> BoundaryTable:
    """Count contexts of up to `order` units in spans of units; those seen less than `min_count` times are left out.

    `ends` (bool, beside each span) says after which units a word or a silence ends; `entropy` does not look at it.
    The threshold is that of no cut at all: see `with_mean_length`.
    """
    if not spans:
        raise ConfigError("no speech to fit boundaries on")
    order = min(order, longest_context(num_units))
    count = _count_words if kind == "words" else _count_entropy
    contexts, scores = count(spans, ends, num_units, order, min_count)
    return BoundaryTable(
        kind=kind, num_units=num_units, contexts=tuple(contexts), scores=tuple(scores),
        threshold=float("inf"), min_size=1, max_size=2**31,
    )  # fmt: skip


def _frequent(keys: np.ndarray, min_count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sorted keys seen often enough, how often, for each entry of `keys` its place among them or -1)."""
    unique, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    often = counts >= min_count
    place = np.where(often, np.cumsum(often) - 1, -1)
    return unique[often], counts[often], place[inverse]


def _gather(spans: Sequence[np.ndarray], parts: Callable[[int], np.ndarray]) -> np.ndarray:
    return np.concatenate([parts(i) for i in range(len(spans))])


def _shorter(keys: np.ndarray, length: int, num_units: int, known: np.ndarray) -> np.ndarray:
    """Place of each context's own last `length - 1` units among the shorter contexts: they are seen at least as often."""
    places: np.ndarray = np.searchsorted(known, keys % num_units ** (length - 1))
    return places


def _count_words(
    spans: Sequence[np.ndarray], ends: Sequence[np.ndarray], num_units: int, order: int, min_count: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    share = float(_gather(spans, lambda i: ends[i]).mean())
    contexts, scores = [np.zeros(1, dtype=np.int64)], [np.asarray([share], dtype=np.float32)]
    for length in range(1, order + 1):
        keys = _gather(spans, lambda i, k=length: context_keys(spans[i], k, num_units))  # type: ignore[misc]
        ended = _gather(spans, lambda i, k=length: ends[i][k - 1 :])  # type: ignore[misc]
        known, counts, place = _frequent(keys, min_count)
        hits = np.bincount(place[place >= 0], weights=ended[place >= 0], minlength=len(known))
        prior = scores[-1][_shorter(known, length, num_units, contexts[-1])] if len(known) else np.zeros(0)
        contexts.append(known)
        scores.append(((hits + WORD_PRIOR * prior) / (counts + WORD_PRIOR)).astype(np.float32))
    return contexts, scores


def _count_entropy(
    spans: Sequence[np.ndarray], _ends: Sequence[np.ndarray], num_units: int, order: int, min_count: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    after = np.bincount(_gather(spans, lambda i: np.asarray(spans[i], dtype=np.int64)), minlength=num_units)
    beliefs = ((after + 1) / (after.sum() + num_units))[None].astype(np.float32)  # [contexts, num_units]
    contexts, scores = [np.zeros(1, dtype=np.int64)], [_entropy(beliefs)]
    for length in range(1, order + 1):
        keys = _gather(spans, lambda i, k=length: context_keys(spans[i][:-1], k, num_units))  # type: ignore[misc]
        following = _gather(spans, lambda i, k=length: np.asarray(spans[i][k:], dtype=np.int64))  # type: ignore[misc]
        known, _, place = _frequent(keys, min_count)
        place, following = place[place >= 0], following[place >= 0]
        order_of = np.argsort(place, kind="stable")
        place, following = place[order_of], following[order_of]
        shorter = _shorter(known, length, num_units, contexts[-1])
        here = np.zeros((len(known), num_units if length < order else 0), dtype=np.float32)
        entropies = np.zeros(len(known), dtype=np.float32)
        for first in range(0, len(known), BLOCK):
            last = min(first + BLOCK, len(known))
            rows = slice(*np.searchsorted(place, [first, last]))
            counts = np.zeros((last - first, num_units), dtype=np.float32)
            np.add.at(counts, (place[rows] - first, following[rows]), 1)
            kinds = (counts > 0).sum(axis=1, keepdims=True)
            belief = (counts + kinds * beliefs[shorter[first:last]]) / (counts.sum(axis=1, keepdims=True) + kinds)
            entropies[first:last] = _entropy(belief)
            if length < order:
                here[first:last] = belief
        beliefs = here
        contexts.append(known)
        scores.append(entropies)
    return contexts, scores


def _entropy(beliefs: np.ndarray) -> np.ndarray:
    bits: np.ndarray = -(beliefs * np.log2(beliefs)).sum(axis=1)
    return bits.astype(np.float32)


def with_mean_length(
    table: BoundaryTable, spans: Sequence[np.ndarray], mean_length: float, min_size: int, max_size: int
) -> BoundaryTable:
    """The threshold at which patches have this mean length in `spans`, as near as bisection over the scores gets.

    Raises:
        ConfigError: no threshold gives it within the least and greatest length.
    """
    if not min_size <= mean_length <= max_size:
        raise ConfigError(f"a mean length of {mean_length:g} does not lie between {min_size} and {max_size}")
    scores = [table.score(units) for units in spans]
    levels = np.unique(np.concatenate(scores))
    units = sum(map(len, spans))

    def mean_at(level: float) -> float:
        patches = sum(
            max(
                1,
                int(cut(np.flatnonzero(s >= level), len(s), min_size, max_size).sum())
                + _open(s, level, min_size, max_size),
            )
            for s in scores
            if len(s)
        )
        return units / max(patches, 1)

    low, high = 0, len(levels) - 1
    while low < high:  # the least level whose patches are long enough
        middle = (low + high) // 2
        low, high = (low, middle) if mean_at(float(levels[middle])) >= mean_length else (middle + 1, high)
    near = min({max(low - 1, 0), low}, key=lambda i: abs(mean_at(float(levels[i])) - mean_length))
    return table.with_rule(float(levels[near]), min_size, max_size)


def _open(scores: np.ndarray, level: float, min_size: int, max_size: int) -> int:
    """1 where the last patch of a span is still open at its end."""
    return int(not cut(np.flatnonzero(scores >= level), len(scores), min_size, max_size)[-1])
