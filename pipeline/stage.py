"""What every stage is: named after the table it writes, opened once per worker, run on one partition at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from pipeline.source.base import AudioReader
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.cards import Card
from schemas.tables import InventoryItem, Recording, Reject, RejectCode, Segment

RowType = TypeVar("RowType", bound=Row)


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """Rows of the stage's table, and the input rows that did not become any."""

    rows: Sequence[Row]
    rejects: Sequence[Reject] = field(default_factory=tuple)


class Stage(Protocol):
    """A stage of the pipeline.

    `run` is deterministic and treats every input row on its own: the result for a row does not depend on which other rows
    are in the partition, so a partition can be split when something in it fails. Bad rows become rejects; an exception costs
    the row that raises it (`stage_error`), never its neighbours. What is misconfigured is said by `cards` and `open`.
    """

    name: str
    """The table it writes."""
    version: int
    """Raised when the code changes so that results change."""
    inputs: tuple[str, ...]
    """The tables it reads. The first one is what is counted: each of its keys ends in `rows` or in `rejects`."""

    def cards(self) -> list[Card]:
        """The cards of the models used; cheap (hashes of files), nothing is loaded.

        Raises:
            ConfigError: a model is missing; the message says where to get it.
        """
        ...

    def open(self) -> None:
        """Load models. Called once per worker before `run`."""
        ...

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """The stage's rows for one partition. `tables` holds what `inputs` names, each sorted by its key."""
        ...

    def close(self) -> None:
        """Release what `open` took."""
        ...


class WithoutModel:
    """What a stage that computes with no model answers: no cards, nothing to load, nothing to release."""

    def cards(self) -> list[Card]:
        """None: nothing but its code and its spec decides what it makes."""
        return []

    def open(self) -> None:
        """There is nothing to load."""

    def close(self) -> None:
        """There is nothing to release."""


@runtime_checkable
class Batched(Protocol):
    """A stage whose network takes several rows at a time."""

    def halve_batch(self) -> bool:
        """Take half as many from now on; False where it takes one already."""
        ...


def rows_of(tables: Mapping[str, Sequence[Row]], cls: type[RowType]) -> list[RowType]:
    """The rows of one of a stage's inputs, as what they are."""
    rows: list[RowType] = []
    for row in tables[cls.TABLE]:
        assert isinstance(row, cls), f"the table {cls.TABLE} holds {type(row).__name__}"
        rows.append(row)
    return rows


def refuse(
    row: InventoryItem | Recording | Segment,
    stage: str,
    code: RejectCode,
    detail: str,
    *,
    part: str = "",
    seconds: float | None = None,
    recording: Recording | None = None,
) -> Reject:
    """The reject of a row that a stage does not pass on. `part`: only this piece of it, and the row goes on.

    `seconds` of audio are those of the row unless given. `recording`, of a segment, is named in the detail, with the time in it:
    a segment's id says neither.
    """
    if isinstance(row, InventoryItem):
        key, length = row.uri, row.seconds or 0.0
    elif isinstance(row, Recording):
        key, length = row.recording_id, row.num_samples_16k / SAMPLE_RATE
    else:
        key, length = row.segment_id, (row.end - row.start) / SAMPLE_RATE
        if recording is not None:
            detail = f"{detail} ({recording.uri}, from {row.start / SAMPLE_RATE:.2f} s)"
    return Reject(
        id=key,
        part=part,
        stage=stage,
        code=code,
        detail=detail,
        retriable=False,
        attempts=1,
        seconds=length if seconds is None else seconds,
    )
