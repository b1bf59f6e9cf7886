"""Backend `parakeet`: greedy Parakeet-CTC, from a local model and without a network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.asr.base import Heard, Unusable
from pipeline.networks.ahead import made_ahead
from pipeline.networks.parakeet import ParakeetModel
from pipeline.networks.resolver import Wanted, licence_notes
from pipeline.source.base import AudioReader
from pipeline.text.languages import language_code
from schemas.cards import Card
from schemas.spec import ParakeetSpec
from schemas.tables import Recording, Segment

LOGPROB_DIGITS = 3
"""Padding and batch shapes change float32 sums by some 1e-5; the table does not show it."""


class ParakeetRecogniser:
    """The likeliest piece of each frame, repeats joined and blanks left out (CTC's greedy path).

    On a CPU segments go one by one; on CUDA `batch_size` of a partition's segments together, of like lengths, so that little
    is padded.
    """

    def __init__(self, spec: ParakeetSpec) -> None:
        self._spec = spec
        self._model = ParakeetModel(spec.model, "transcripts.model", spec.device)
        self._language = language_code(spec.language)
        self._batch_size = 1

    def card(self) -> Card:
        """The hashes of the model's files."""
        return Card(
            kind="asr",
            name=Path(self._spec.model.partition("@")[0]).name.lower(),
            facts={"files": self._model.files(), "decoding": "greedy-1"},
            notes=licence_notes(Wanted(field="transcripts.model", form="hf", name=self._spec.model)),
        )

    def open(self) -> None:
        """Load the model."""
        self._model.open()
        self._batch_size = self._spec.batch_size if self._model.device == "cuda" else 1

    def close(self) -> None:
        """Release the model."""
        self._model.close()

    def halve_batch(self) -> bool:
        """See `pipeline.stage.Batched`."""
        self._batch_size, before = max(self._batch_size // 2, 1), self._batch_size
        return self._batch_size < before

    def transcribe(self, cuts: Sequence[tuple[Recording, Segment]], audio: AudioReader) -> Sequence[Heard | Unusable]:
        """Text and mean log probability per piece of each segment."""
        size = self._batch_size
        order = sorted(range(len(cuts)), key=lambda place: (cuts[place][1].end - cuts[place][1].start) * (size > 1))
        batches = [order[first : first + size] for first in range(0, len(order), size)]

        def read(batch: list[int]) -> tuple[list[int], list[np.ndarray]]:
            return batch, [
                audio.read(recording, row.channel)[row.start : row.end] for recording, row in (cuts[n] for n in batch)
            ]

        results: dict[int, Heard] = {}
        for batch, waves in made_ahead(read, batches, ahead=size > 1):
            results |= zip(batch, map(self._decode, self._model.log_probs(waves)), strict=True)
        return [results[place] for place in range(len(cuts))]

    def _decode(self, log_probs: np.ndarray) -> Heard:
        best, scores = log_probs.argmax(axis=1), log_probs.max(axis=1, initial=-np.inf)
        pieces: list[int] = []
        said: list[float] = []
        frame = 0
        for label, run in groupby(best.tolist()):
            length = len(list(run))
            if label != self._model.blank:
                pieces.append(label)
                said.append(float(scores[frame : frame + length].max()))
            frame += length
        tokenizer: Any = self._model.tokenizer
        return Heard(
            text=tokenizer.decode(pieces, skip_special_tokens=True).strip(),
            language=self._language,
            avg_logprob=round(float(np.mean(said)), LOGPROB_DIGITS) if said else None,
        )
