"""Which networks of the pipeline a check of a GPU measures: those that specs name, each in every arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.config import load_config
from schemas.hearing import WhisperXSpec
from schemas.spec import HubertSpec, PipelineSpec

SPECS = ("configs/demo.yaml", "configs/hubert-base-l9-km500.yaml", "configs/librilight.yaml")
"""The shipped networks, the published HuBERT base at 50 Hz, and those of a production run."""
Device = Literal["cpu", "cuda"]
Arithmetic = Literal["float32", "float16", "bfloat16"]
ARITHMETICS: tuple[Arithmetic, ...] = ("float32", "float16", "bfloat16")
"""The first is what the others are compared with."""
WIDE = 32
"""Rows of a further measurement in the last of them: what a larger batch would bring."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A network in one arithmetic, with so many rows a forward pass."""

    spec: HubertSpec | WhisperXSpec
    centroids: str | None = None
    """HuBERT's codebook, where the spec names one on this machine."""

    @property
    def network(self) -> str:
        """What it is, whatever its arithmetic."""
        if isinstance(self.spec, HubertSpec):
            return f"HuBERT {self.spec.model} layer {self.spec.layer}"
        return f"Whisper {self.spec.model}"

    @property
    def arithmetic(self) -> str:
        """torch's name of the type it computes in."""
        return self.spec.dtype if isinstance(self.spec, HubertSpec) else self.spec.compute_type

    @property
    def name(self) -> str:
        """As the report has it."""
        return f"{self.network}, {self.arithmetic}, {self.spec.batch_size} rows"


def pieces_of(specs: Sequence[str], device: Device) -> dict[str, Piece]:
    """By name, each network once, in the order of the specs.

    Raises:
        ConfigError: a spec is missing or not valid.
    """
    pieces: dict[str, Piece] = {}
    for path in specs:
        stages = load_config(PipelineSpec, path).stages
        encoder, recogniser, centroids = stages.units.encoder, stages.transcripts, stages.units.centroids
        found: list[Piece] = []
        if isinstance(encoder, HubertSpec):
            here = None if "://" in centroids else centroids
            found += [Piece(spec=spec, centroids=here) for spec in _each_hubert(encoder, device)]
        if isinstance(recogniser, WhisperXSpec):
            found += [Piece(spec=spec) for spec in _each_whisper(recogniser, device)]
        for piece in found:
            pieces.setdefault(piece.name, piece)
    return pieces


def _shapes(rows: int) -> list[tuple[Arithmetic, int]]:
    wide = [(ARITHMETICS[-1], WIDE)] if rows < WIDE else []
    return [*((arithmetic, rows) for arithmetic in ARITHMETICS), *wide]


def _each_hubert(spec: HubertSpec, device: Device) -> list[HubertSpec]:
    return [
        spec.model_copy(update={"dtype": arithmetic, "batch_size": rows, "device": device})
        for arithmetic, rows in _shapes(spec.batch_size)
    ]


def _each_whisper(spec: WhisperXSpec, device: Device) -> list[WhisperXSpec]:
    return [
        spec.model_copy(update={"compute_type": arithmetic, "batch_size": rows, "device": device})
        for arithmetic, rows in _shapes(spec.batch_size)
    ]
