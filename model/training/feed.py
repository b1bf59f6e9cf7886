"""A rank's micro-batches, counted on the host and, on CUDA, fetched and copied while the device computes the step before."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from model.cost.flops import count_batch, training_flops
from model.data.loader import Loader
from model.data.sources import Corpus
from model.network.base import SpeechTextModel
from model.network.batch import Batch
from model.network.layout import select
from model.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a rank's micro-batches of one step hold, summed."""

    targets: float
    elements: float
    latents: float
    flops: float
    speech_seconds: float
    units: float
    binding: float
    """Fill of the fuller of the two budgets."""


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

    def __init__(
        self, loader: Loader, device: torch.device, config: TrainConfig, shape: SpeechTextModel, corpus: Corpus
    ) -> None:
        """`shape`: the model without storage, for counting operations on whole matrices."""
        self._loader, self._device, self._config, self._shape, self._corpus = loader, device, config, shape, corpus
        self._next: StepBatches | None = None
        self.states = loader.states()
        """Of the lanes after the steps taken."""

    def step(self) -> StepBatches:
        """The next step's.

        Raises:
            ShardError: the data cannot be read.
        """
        taken = self._next or self._fetch()
        self._next, self.states = None, taken.states
        return taken

    def prefetch(self) -> None:
        """On CUDA, fetch the step after: called when this one's kernels are under way. Copies join the same queue."""
        if self._device.type == "cuda" and self._next is None:
            begun = time.perf_counter()
            taken = self._fetch()
            self._next = replace(taken, ahead=time.perf_counter() - begun)

    def _fetch(self) -> StepBatches:
        begun = time.perf_counter()
        batches = self._loader.step()
        waited = time.perf_counter() - begun
        counts = self._count(batches)
        placed = [place(batch, self._device) for batch in batches]
        names = [list(batch.sample_ids) for batch in batches]
        return StepBatches(batches=placed, sample_ids=names, counts=counts, states=self._loader.states(), waited=waited)

    def _count(self, batches: list[Batch]) -> Counts:
        packing, sizes = self._config.packing, [_size(batch) for batch in batches]
        return Counts(
            targets=float(sum(int(batch.loss_mask_N.sum()) for batch in batches)),
            elements=float(sum(elements for elements, _ in sizes)),
            latents=float(sum(latents for _, latents in sizes)),
            flops=sum(training_flops(self._shape, count_batch(batch, self._shape.config)) for batch in batches),
            speech_seconds=sum(self._corpus.speech_seconds(batch) for batch in batches),
            units=float(sum(int(batch.is_unit_N.sum()) for batch in batches)),
            binding=sum(max(elements / packing.elements, latents / packing.latents) for elements, latents in sizes),
        )


def place(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device, without a wait: counted here, copied from pinned memory."""
    if device.type != "cuda":
        return batch.to(device)
    return replace(batch, selections=select(batch)).pin_memory().to(device)


def _size(batch: Batch) -> tuple[int, int]:
    """Elements and latents in use."""
    elements = int((batch.doc_id_N >= 0).sum())
    return elements, int(batch.latent_id_N[elements - 1]) + 1
