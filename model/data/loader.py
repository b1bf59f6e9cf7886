"""The loader: an endless sequence of micro-batches that is the same for every number of ranks and workers.

The documents of a source, in their order, are dealt to `lanes` independent streams: lane l takes every lanes-th. Micro-batch q of
the run (counted over all ranks and steps) comes from lane q mod lanes. Ranks and workers own whole lanes, so no work is done
twice, nothing is exchanged, and a lane's state is a few integers that travel with each batch.
"""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from model.data.compose import Composer
from model.data.document import Document
from model.data.draws import generator
from model.data.packing import PackingConfig, Pick, Piece, fill, pack, rest_of, whole
from model.data.shards import ShardError
from model.data.sources import DocumentStream
from model.network.batch import Batch, Selections
from schemas.commands.processes import end_with_parent, obey_the_parent_alone
from schemas.commands.signals import blocked_signals
from schemas.config import ConfigError
from schemas.errors import ExitCode, UserError

Patcher = Callable[[Document, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""(document, step, generator) -> (latent_id int [n], closed bool [n])."""
Finish = Callable[[Batch], tuple[Batch, Any]]
"""What is done to a batch where it was made: the batch for the trainer, and a note (counts) to go with it."""


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

        batch = pack(fill(config, pending, taken), config, len(self.stream.sources))
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


@dataclass(frozen=True)
class Placement:
    """Which micro-batches are this rank's: q with q mod world == rank, `batches` of them (over all ranks) per step."""

    rank: int
    world: int
    batches: int
    lanes: int
    workers: int

    def check(self) -> None:
        """
        Raises:
            ConfigError: ranks or workers would share a lane.
        """
        if self.batches % self.world:
            raise ConfigError(
                f"global_microbatches {self.batches} cannot be dealt evenly to {self.world} ranks; make it a multiple"
            )
        owners = self.world * max(1, self.workers)
        if self.lanes % owners:
            raise ConfigError(
                f"data.lanes {self.lanes} must be a multiple of ranks x workers = {self.world} x {max(1, self.workers)}; "
                f"the next one is {-(-self.lanes // owners) * owners} (choose it before the first step: it decides the batches)"
            )

    def of(self, item: int) -> tuple[int, int]:
        """(lane, step) of this rank's item-th micro-batch."""
        number = item * self.world + self.rank
        return number % self.lanes, number // self.batches


@dataclass(frozen=True)
class _Failed:
    """An error that a worker hands over whole, so that the trainer can say the sentence without a worker's traceback."""

    message: str
    code: ExitCode


class _Items(IterableDataset[Any]):
    """This rank's micro-batches from step `first` on; in a worker, every workers-th of them."""

    def __init__(
        self, stream: Stream, placement: Placement, states: Sequence[LaneState], first: int, finish: Finish | None
    ) -> None:
        self.stream, self.placement, self.states, self.first, self.finish = stream, placement, states, first, finish

    def __iter__(self) -> Iterator[tuple[int, _Arrays, Any, LaneState] | _Failed]:
        info = get_worker_info()
        begin, stride = (info.id, info.num_workers) if info else (0, 1)
        first = self.first * self.placement.batches // self.placement.world
        lanes: dict[int, Lane] = {}
        for item in itertools.count(first + begin, stride):
            number, step = self.placement.of(item)
            try:
                if number not in lanes:
                    lanes[number] = Lane(self.stream, number, self.states[number])
                batch, state = lanes[number].next(step)
            except ShardError as error:
                yield _Failed(str(error), error.code)
                return
            batch, note = (batch, None) if self.finish is None else self.finish(batch)
            yield number, _Arrays(batch), note, state


class _Arrays:
    """A batch between processes, as plain arrays: one message, where each tensor would be a file descriptor to hand over."""

    def __init__(self, batch: Batch) -> None:
        self._fields = _as_arrays(batch)
        self._selections = None if batch.selections is None else _as_arrays(batch.selections)

    def batch(self) -> Batch:
        """The batch again."""
        selections = None if self._selections is None else Selections(**_as_tensors(self._selections))
        return replace(Batch(**_as_tensors(self._fields)), selections=selections)


def _as_arrays(item: Batch | Selections) -> dict[str, Any]:
    values = {field.name: getattr(item, field.name) for field in fields(item) if field.name != "selections"}
    return {name: v.numpy() if isinstance(v, torch.Tensor) else v for name, v in values.items()}


def _as_tensors(values: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in values.items()}


def _unchanged(item: Any) -> Any:
    return item


def _begin_worker(_: int) -> None:
    end_with_parent()
    obey_the_parent_alone()


class Loader:
    """A rank's view of the sequence, step by step."""

    def __init__(
        self,
        stream: Stream,
        placement: Placement,
        first_step: int = 0,
        states: Sequence[LaneState] | None = None,
        finish: Finish | None = None,
        patience: float = 1800,
    ) -> None:
        """`patience`: seconds in which some worker has to give a batch.

        Raises:
            ConfigError: see `Placement.check`.
        """
        placement.check()
        self.placement = placement
        self._states = list(states or [LaneState.start(len(stream.sources))] * placement.lanes)
        assert len(self._states) == placement.lanes
        self._loader = DataLoader(
            _Items(stream, placement, list(self._states), first_step, finish),
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=placement.workers,
            prefetch_factor=8 if placement.workers else None,
            timeout=patience if placement.workers else 0,
            # Under a parent of forkserver's kind the loader would inherit that way, and each worker loads torch again.
            multiprocessing_context="fork" if placement.workers else None,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # keeps DataLoader off the global one
        )
        self.notes: list[Any] = []
        """What `finish` noted of the batches of the last step."""
        self.waiting = False
        """Whether `step` is waiting for data, so that breaking it off leaves everything as it was before."""
        others = set(multiprocessing.active_children())
        with blocked_signals():  # which a worker would meet with the trainer's handlers
            self._items = iter(self._loader)
        self._workers = set(multiprocessing.active_children()) - others

    def step(self) -> list[Batch]:
        """This rank's micro-batches of the next step.

        Raises:
            ShardError: a shard is missing, truncated or damaged.
            UserError: a worker ended, or none gave anything in time.
        """
        batches, notes, states = [], [], {}
        self.waiting = True
        try:
            for _ in range(self.placement.batches // self.placement.world):
                item = self._next()
                if isinstance(item, _Failed):
                    raise ShardError(item.message, code=item.code)
                lane, arrays, note, state = item
                states[lane] = state
                batches.append(arrays.batch())
                notes.append(note)
        finally:
            self.waiting = False
        for lane, state in states.items():  # all or none
            self._states[lane] = state
        self.notes = notes
        return batches

    def _next(self) -> Any:
        try:
            return next(self._items)
        except RuntimeError as error:
            happened = str(error)
            if not happened.startswith("DataLoader "):  # one that a worker hands over
                raise
        # Outside the handler, so that no traceback keeps DataLoader's iterator alive, which `close` ends.
        said = f"no batch came from the loader's processes ({happened.strip().rstrip('.')})"
        raise UserError(said, "run the same command to go on", ExitCode.TRY_AGAIN)

    def states(self) -> dict[int, dict[str, Any]]:
        """The states of this rank's lanes after the steps taken, ready for JSON."""
        owned = range(self.placement.rank, self.placement.lanes, self.placement.world)
        return {lane: asdict(self._states[lane]) for lane in owned}

    def close(self) -> None:
        """End the workers; a second time nothing happens."""
        for worker in self._workers:
            worker.terminate()  # else DataLoader waits for each until it has finished what it is loading
        if self._workers and hasattr(self._items, "_workers_done_event"):
            # A worker may have ended while it held this event's lock, and DataLoader, which sets it, would wait for ever.
            self._items._workers_done_event = threading.Event()
        self._items = iter(())
        for worker in self._workers:
            worker.kill()  # one that was stuck before it could hear SIGTERM
            worker.join()


def fixed_batches(stream: Stream, count: int, step: int) -> list[Batch]:
    """The first `count` micro-batches of a stream as they would be at `step`: a validation set. One lane alone draws them, so no
    sample comes twice before all have come."""
    lane = Lane(replace(stream, lanes=1), 0, LaneState.start(len(stream.sources)))
    return [lane.next(step)[0] for _ in range(count)]
