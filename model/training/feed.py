"""A rank's micro-batches, on CUDA fetched and copied while the device computes the step before.

They are counted, and for CUDA their index lists made, where the loader makes them: `finisher`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from model.data.loader import Finish, Loader
from model.monitor.counting import BatchCounter, Counts, total
from model.network.batch import Batch
from model.network.layout import select


@dataclass(frozen=True, kw_only=True)
class StepBatches:
    """A step's micro-batches."""

    batches: list[Batch]
    """On the device."""
    sample_ids: list[list[str]]
    counts: Counts
    states: dict[int, dict[str, Any]]
    """Of the loader's lanes, these batches taken."""
    waited: float
    """Seconds that the loader took."""
    ahead: float = 0.0
    """Seconds that went into fetching, where that was done before the step."""


class Feed:
    """Batches step by step. What is fetched ahead does not count as taken: a checkpoint resumes with it."""

    def __init__(self, loader: Loader, device: torch.device) -> None:
        """`loader`: with a `finisher`."""
        self._loader, self._device = loader, device
        self._next: StepBatches | None = None
        self.states = loader.states()
        """Of the lanes after the steps done."""

    def step(self) -> StepBatches:
        """The next step's. They count as taken once they are said to be `done`: a step that breaks off is one to come.

        Raises:
            ShardError: the data cannot be read.
        """
        taken = self._next or self._fetch()
        self._next = None
        return taken

    def done(self, taken: StepBatches) -> None:
        """The step of these batches is made."""
        self.states = taken.states

    def prefetch(self) -> None:
        """On CUDA, fetch the step after: called when this one's kernels are under way. Copies join the same queue."""
        if self._device.type == "cuda" and self._next is None:
            begun = time.perf_counter()
            taken = self._fetch()
            self._next = replace(taken, ahead=time.perf_counter() - begun)

    def _fetch(self) -> StepBatches:
        begun = time.perf_counter()
        batches = self._loader.step()
        return StepBatches(
            batches=[place(batch, self._device) for batch in batches],
            sample_ids=[list(batch.sample_ids) for batch in batches],
            counts=total(self._loader.notes),
            states=self._loader.states(),
            waited=time.perf_counter() - begun,
        )


def finisher(count: BatchCounter, device: torch.device) -> Finish:
    """What the loader's workers do to a batch beside making it."""

    def finish(batch: Batch) -> tuple[Batch, Counts]:
        counts = count(batch)
        return replace(batch, selections=select(batch)) if device.type == "cuda" else batch, counts

    return finish


def place(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device, without a wait: counted here, copied from pinned memory."""
    if device.type != "cuda":
        return batch.to(device)
    return replace(batch, selections=select(batch)).pin_memory().to(device)
