"""The commit: a stage's promise for one partition, named by what the partition holds. Readers follow commits and never glob."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import model_validator

from schemas.cards import fingerprint
from schemas.config import StrictModel


class Output(StrictModel):
    """A file that a commit names. `path` is relative to the store."""

    path: str
    sha256: str
    bytes: int
    rows: int


class Commit(StrictModel):
    """What a stage did with one partition.

    Rows are counted in the stage's *input* keys: rows_in == rows_out + rows_rejected, however many rows an input becomes.
    Samples are counted at 16 kHz.
    """

    stage: str
    fingerprint: str
    partition: str
    members: dict[str, str] = {}
    """What the rows are of: id of a file's content (with what the stage reads of its labels) -> the uri in `recordings`, else the
    recording id that its rows carry. By these, rows are taken over into partitions that are cut otherwise."""
    inputs: dict[str, str]
    """Table (or upstream partition) -> sha256 of the file that was read."""
    outputs: dict[str, Output]
    rows_in: int
    rows_out: int
    rows_rejected: int
    rejects_by_code: dict[str, int]
    samples_in: int
    samples_out: int
    samples_rejected: int
    sums: dict[str, int] = {}
    """Sums over the output that reports and the shard index need: frames, words, patches."""
    seconds_busy: float
    """Wall seconds inside the stage; of rows that were taken over, their share of the seconds that they took then."""
    taken_over: int = 0
    """How many of `members` were taken over from other commits of the same stage and fingerprint."""
    provenance: dict[str, str] = {}
    """When, on which host and processor, with which versions. With `seconds_busy` all that differs between two runs."""

    @model_validator(mode="after")
    def _nothing_vanishes(self) -> Commit:
        if self.rows_in != self.rows_out + self.rows_rejected:
            raise ValueError(
                f"{self.stage}/{self.partition}: {self.rows_in} rows came in but {self.rows_out} went out "
                f"and {self.rows_rejected} were rejected"
            )
        return self


def stage_fingerprint(
    stage: str,
    version: int,
    parameters: dict[str, Any],
    cards: list[str],
    schema_version: int,
    upstream: dict[str, str],
) -> str:
    """The identity of a stage's results: changes with whatever may change them, and with nothing else."""
    return fingerprint(
        {
            "stage": stage,
            "version": version,
            "parameters": parameters,
            "cards": sorted(cards),
            "schema": schema_version,
            "upstream": upstream,
        }
    )


@dataclass(frozen=True, kw_only=True)
class StageKind:
    """What the engine has to know of a stage, whatever it computes."""

    upstream: tuple[str, ...]
    """Its fingerprint stands on those of these stages. They are less than what it reads: segments stand on recordings."""
    folder: str
    """Where its files lie in an output."""
    output: str
    """What a commit calls its file."""
    gathers: bool = False
    """A unit of its work is a shard, of several partitions; else it is one partition."""
    restates: bool = False
    """Its rows say again what the source says of a file. So any label names its units anew, while nothing below stands on
    them; and a unit that is taken over is labelled anew."""


def _table(name: str, *upstream: str, restates: bool = False) -> StageKind:
    return StageKind(upstream=upstream, folder=f"tables/{name}", output=name, restates=restates)


KINDS = {
    "recordings": _table("recordings", restates=True),
    "segments": _table("segments", "recordings"),
    "audio_quality": _table("audio_quality", "segments"),
    "transcripts": _table("transcripts", "segments"),
    "text_quality": _table("text_quality", "transcripts"),
    "words": _table("words", "transcripts"),
    "units": _table("units", "segments"),
    "patches": _table("patches", "words", "units"),
    "shards": StageKind(upstream=("patches",), folder="shards", output="shard", gathers=True),
}
"""Every stage, optional ones among them, in the order in which their tables are made."""
SHARDS = next(name for name, kind in KINDS.items() if kind.gathers)
"""The stage that gathers; the last."""
SHARD_FOLDER = KINDS[SHARDS].folder
"""Where the shards, and the index that names them, lie in an output."""
