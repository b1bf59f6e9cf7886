"""The loader: an endless sequence of micro-batches that is the same for every number of ranks and workers.

The documents of a source, in their order, are dealt to `lanes` independent streams: lane l takes every lanes-th. Micro-batch q of
the run (counted over all ranks and steps) comes from lane q mod lanes. Ranks and workers own whole lanes, so no work is done
twice, nothing is exchanged, and a lane's state is a few integers that travel with each batch.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from model.data.lanes import Lane, LaneState, Stream
from model.data.shards import ShardError
from model.network.batch import Batch, Selections
from schemas.commands.processes import end_with_parent, obey_the_parent_alone
from schemas.commands.signals import blocked_signals
from schemas.config import ConfigError
from schemas.errors import ExitCode, UserError

Finish = Callable[[Batch], tuple[Batch, Any]]
"""What is done to a batch where it was made: the batch for the trainer, and a note (counts) to go with it."""


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
            except UserError as error:
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


class _Listening:
    """DataLoader's handler of SIGCHLD raises wherever this process is, in an update of the weights too. Here it is asked while a
    loader waits, and no loader begins to wait for a process that has ended."""

    now = False

    @classmethod
    @contextmanager
    def instead(cls) -> Iterator[None]:
        """In place of the handler that is set within, if one is."""
        before = signal.getsignal(signal.SIGCHLD)
        yield
        theirs = signal.getsignal(signal.SIGCHLD)
        if theirs is not before and callable(theirs):
            signal.signal(signal.SIGCHLD, lambda number, frame: theirs(number, frame) if cls.now else None)


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
        with _Listening.instead(), blocked_signals():  # which a worker would meet with the trainer's handlers
            self._items = iter(self._loader)
        self._workers = set(multiprocessing.active_children()) - others

    def step(self) -> list[Batch]:
        """This rank's micro-batches of the next step.

        Raises:
            ShardError: a shard is missing, truncated or damaged, or a document cannot be patched or packed as configured.
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
            _Listening.now = True
            for worker in self._workers:
                if not worker.is_alive():
                    raise RuntimeError(f"DataLoader worker {worker.pid} ended with exit code {worker.exitcode}")
            return next(self._items)
        except RuntimeError as error:
            happened = str(error)
            if not happened.startswith("DataLoader "):  # one that a worker hands over
                raise
        finally:
            _Listening.now = False
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
