"""The stages by name: what each reads, and how the spec makes one."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.given_segments import GivenSegmentsStage
from pipeline.given_words import GivenWordsStage
from pipeline.patches import PatchesStage
from pipeline.recordings import RecordingsStage
from pipeline.segments import SegmentsStage
from pipeline.stage import Stage
from schemas.cards import Card
from schemas.spec import GivenSegmentsSpec, GivenWordsSpec, PipelineSpec, SegmentsSpec

UPSTREAM: dict[str, tuple[str, ...]] = {
    "recordings": (),
    "segments": ("recordings",),
    "transcripts": ("segments",),
    "words": ("transcripts",),
    "units": ("segments",),
    "patches": ("words", "units"),
    "shards": ("patches",),
}
"""A stage's fingerprint stands on those of these stages. They are less than what it reads: segments stand on recordings."""


def build_stage(name: str, spec: PipelineSpec) -> Stage:
    """A stage from the spec. Cheap: models are loaded by `open`."""
    from pipeline.transcripts import TranscriptsStage
    from pipeline.units import UnitsStage
    from pipeline.words import WordsStage

    stages = spec.stages
    if name == "recordings":
        return RecordingsStage(stages.recordings, spec.source)
    if isinstance(stages.segments, GivenSegmentsSpec) and name == "segments":
        return GivenSegmentsStage(stages.segments)
    if name == "segments":
        assert isinstance(stages.segments, SegmentsSpec)
        return SegmentsStage(stages.segments, channels=stages.recordings.channels)
    if name == "transcripts":
        return TranscriptsStage(stages.transcripts)
    if isinstance(stages.words, GivenWordsSpec) and name == "words":
        return GivenWordsStage(stages.words)
    if name == "words":
        assert not isinstance(stages.words, GivenWordsSpec)
        return WordsStage(stages.words)
    if name == "units":
        return UnitsStage(stages.units)
    if name == "patches":
        return PatchesStage(stages.patches, hop=unit_tokenizer(spec)["hop"])
    raise KeyError(name)


def unit_tokenizer(spec: PipelineSpec) -> dict[str, int]:
    """`hop` (samples at 16 kHz per unit) and `num_units`. Hashes the models: where a plan is at hand, ask its cards."""
    from pipeline.units import UnitsStage

    return unit_tokenizer_of(UnitsStage(spec.stages.units).cards())


def unit_tokenizer_of(cards: Iterable[Card]) -> dict[str, int]:
    """`hop` (samples at 16 kHz per unit) and `num_units`, from the card of the unit tokenizer among others."""
    card = next(card for card in cards if card.kind == "unit_tokenizer")
    return {name: int(card.facts[name]) for name in ("hop", "num_units")}
