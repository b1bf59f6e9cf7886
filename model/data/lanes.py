"""Lanes: the endless streams of micro-batches into which a run's documents are dealt, each with a state of a few integers.

Lane l of n takes every n-th document of each source, in their order, from the l-th on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from model.data.compose import Composer
from model.data.document import Document
from model.data.draws import generator
from model.data.packing import PackingConfig, Pick, Piece, fill, pack, rest_of, whole
from model.data.sources import DocumentStream
from model.network.batch import Batch

Patcher = Callable[[Document, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""(document, step, generator) -> (latent_id int [n], closed bool [n])."""


class Address(NamedTuple):
    """Where a pending piece comes from: enough to make it again."""

    source: int
    sample: int
    """Its index in the source's order."""
    part: int
    """Which of the sample's documents."""
    offset: int
    """Element of the document at which the piece begins."""
    step: int
    """When it was drawn: the curriculum of patches depends on it."""


@dataclass(frozen=True, kw_only=True)
class LaneState:
    """All that a lane remembers."""

    batches: int
    """Made so far."""
    drawn: tuple[int, ...]
    """Samples drawn, per source."""
    elements: tuple[int, ...]
    """Elements drawn, per source."""
    pending: tuple[Address, ...]
    """Drawn and not yet used up, oldest first."""

    @classmethod
    def start(cls, num_sources: int) -> LaneState:
        """The state of a lane at the beginning of a run."""
        return cls(batches=0, drawn=(0,) * num_sources, elements=(0,) * num_sources, pending=())

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LaneState:
        """What `asdict` and JSON made of a state."""
        return cls(
            batches=value["batches"],
            drawn=tuple(value["drawn"]),
            elements=tuple(value["elements"]),
            pending=tuple(Address(*address) for address in value["pending"]),
        )


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What all lanes share: the sources, and how their documents become pieces."""

    sources: Sequence[DocumentStream]
    composer: Composer
    patcher: Patcher
    packing: PackingConfig
    seed: int
    lanes: int

    def pieces(self, source: int, index: int, step: int) -> list[tuple[Address, Piece]]:
        """The patched documents of a sample."""
        name = self.sources[source].name
        found = []
        for part, document in enumerate(self.sources[source].documents(index, self.composer)):
            latent_id, closed = self.patcher(document, step, generator(self.seed, "patches", name, index, part))
            found.append((Address(source, index, part, 0, step), whole(document, latent_id, closed, source)))
        return found


class Lane:
    """One stream of micro-batches. The source drawn next is the one furthest behind its share of elements."""

    def __init__(self, stream: Stream, number: int, state: LaneState) -> None:
        self.stream, self.number = stream, number
        self._batches, self._drawn, self._elements = state.batches, list(state.drawn), list(state.elements)
        self._pending = [self._again(address) for address in state.pending]

    def next(self, step: int) -> tuple[Batch, LaneState]:
        """The lane's next micro-batch, for optimiser step `step`, and the lane's state after it."""
        config = self.stream.packing

        def pending(place: int) -> Piece:
            while len(self._pending) <= place:
                self._draw(step)
            return self._pending[place][1]

        def taken(choice: Pick) -> None:
            address, _ = self._pending.pop(choice.place)
            if choice.cut_at is not None:
                rest = address._replace(offset=choice.cut_at)
                self._pending.insert(choice.place, self._again(rest))

        batch = pack(fill(config, pending, taken), config, len(self.stream.sources)).check()
        self._batches += 1
        state = LaneState(
            batches=self._batches,
            drawn=tuple(self._drawn),
            elements=tuple(self._elements),
            pending=tuple(address for address, _ in self._pending),
        )
        return batch, state

    def _draw(self, step: int) -> None:
        sources = self.stream.sources
        behind = [count / source.config.weight for count, source in zip(self._elements, sources, strict=True)]
        # ties (all are 0 at first) fall to another source in each lane
        chosen = min(range(len(sources)), key=lambda i: (behind[i], (i - self.number) % len(sources)))
        index = self._drawn[chosen] * self.stream.lanes + self.number
        pieces = self.stream.pieces(chosen, index, step)
        self._drawn[chosen] += 1
        self._elements[chosen] += sum(len(piece) for _, piece in pieces)
        self._pending += pieces

    def _again(self, address: Address) -> tuple[Address, Piece]:
        _, piece = self.stream.pieces(address.source, address.sample, address.step)[address.part]
        return address, rest_of(piece, address.offset)


def fixed_batches(stream: Stream, count: int, step: int) -> list[Batch]:
    """The first `count` micro-batches of a stream as they would be at `step`: a validation set. One lane alone draws them, so no
    sample comes twice before all have come."""
    lane = Lane(replace(stream, lanes=1), 0, LaneState.start(len(stream.sources)))
    return [lane.next(step)[0] for _ in range(count)]
