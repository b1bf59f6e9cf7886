"""What micro-batches hold, counted where they are made: in the loader's workers, while the trainer computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from model.cost.flops import count_batch, training_flops
from model.data.packing import PackingConfig
from model.data.sources import TrainingData
from model.network.base import SpeechTextModel
from model.network.batch import Batch
from model.network.head import KINDS, target_kind
from model.network.vocabulary import NUM_SPECIAL


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of one micro-batch, or summed over several."""

    targets: float = 0.0
    elements: float = 0.0
    """Text tokens, units and marks, padding left out."""
    latents: float = 0.0
    flops: float = 0.0
    """Of forward and backward passes."""
    speech_seconds: float = 0.0
    units: float = 0.0
    binding: float = 0.0
    """Fill of the fuller of the two budgets."""
    text_bytes: float = 0.0
    """UTF-8 bytes of the text tokens that are targets."""
    kinds: tuple[float, ...] = ()
    """Targets by source and kind (special, text token, unit), [S * 3]."""

    def numbers(self) -> list[float]:
        """All as one list, for a sum over ranks."""
        return [*(getattr(self, name) for name in _SINGLE), *self.kinds]

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Counts:
        """The other way round from `numbers`."""
        singles = dict(zip(_SINGLE, numbers, strict=False))
        return cls(**singles, kinds=tuple(numbers[len(_SINGLE) :]))


_SINGLE = tuple(field.name for field in fields(Counts) if field.name != "kinds")


def total(parts: Sequence[Counts]) -> Counts:
    """The sum of several."""
    return Counts.of([sum(column) for column in zip(*(part.numbers() for part in parts), strict=True)])


class BatchCounter:
    """Counts a micro-batch on the host."""

    def __init__(self, shape: SpeechTextModel, corpus: TrainingData, packing: PackingConfig) -> None:
        """`shape`: the model without storage, for counting operations on whole matrices."""
        self._shape, self._corpus, self._packing = shape, corpus, packing
        self._token_bytes = corpus.tokenizer.byte_lengths()

    def __call__(self, batch: Batch) -> Counts:
        """The batch lies on the host."""
        elements = int((batch.doc_id_N >= 0).sum())
        latents = int(batch.latent_id_N[elements - 1]) + 1 if elements else 0
        target_T = batch.ids_N[batch.loss_mask_N]
        text_T = target_T[(target_T >= NUM_SPECIAL) & (target_T < self._corpus.vocabulary.unit_offset)].numpy()
        kind_T = target_kind(target_T, self._corpus.vocabulary).numpy()
        if batch.source_N is not None:
            kind_T = kind_T + KINDS * batch.source_N[batch.loss_mask_N].numpy()
        return Counts(
            targets=float(len(target_T)),
            elements=float(elements),
            latents=float(latents),
            flops=training_flops(self._shape, count_batch(batch, self._shape.config)),
            speech_seconds=self._corpus.speech_seconds(batch),
            units=float(batch.is_unit_N.sum()),
            binding=max(elements / self._packing.elements, latents / self._packing.latents),
            text_bytes=float(self._token_bytes[text_T - NUM_SPECIAL].sum()),
            kinds=tuple(np.bincount(kind_T, minlength=KINDS * batch.num_sources).astype(float).tolist()),
        )
