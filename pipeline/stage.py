"""What every stage is: named after the table it writes, opened once per worker, run on one partition at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.source.base import AudioReader
from schemas.arrow import Row
from schemas.cards import Card
from schemas.tables import Reject


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
