"""The stages by name: what each reads, and how the spec makes one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.audio_quality import AudioQualityStage
from pipeline.given_segments import GivenSegmentsStage
from pipeline.given_words import GivenWordsStage
from pipeline.patches import PatchesStage
from pipeline.recordings import RecordingsStage
from pipeline.segments import SegmentsStage
from pipeline.shards import VERSION as SHARDS_VERSION
from pipeline.stage import Stage
from pipeline.text_quality import TextQualityStage
from schemas.cards import Card
from schemas.commit import KINDS
from schemas.errors import TryAgain
from schemas.shards import SHARD_FORMAT
from schemas.spec import (
    GATES,
    AudioQualitySpec,
    GivenSegmentsSpec,
    GivenWordsSpec,
    PipelineSpec,
    StagesSpec,
    TextQualitySpec,
)
from schemas.tables import TABLES, Units


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a stage's results depend on beside those of the stages above: its part of the fingerprint."""

    version: int
    """Of the code."""
    schema: int
    """Of what it writes."""
    cards: tuple[Card, ...]
    """Of the models it uses."""
    parameters: dict[str, Any]
    """The fields of its spec that change results."""


def identify(name: str, spec: PipelineSpec, above: Mapping[str, Sequence[Card]]) -> Identity:
    """A stage's identity. `above`: the cards of the stages planned before it.

    Raises:
        ConfigError: a model is missing.
    """
    parameters = spec.parameters(name)
    if KINDS[name].gathers:
        cards = tuple(card for stage in above.values() for card in stage)
        return Identity(version=SHARDS_VERSION, schema=SHARD_FORMAT, cards=cards, parameters=parameters)
    stage = build_stage(name, spec)
    if isinstance(stage, PatchesStage):  # its hop is the units', not a field of its spec
        parameters = {**parameters, "hop": unit_tokenizer_of(above[Units.TABLE])["hop"]}
    return Identity(
        version=stage.version, schema=TABLES[name].VERSION, cards=tuple(stage.cards()), parameters=parameters
    )


def check_models(stage: Stage, planned: Sequence[Card]) -> None:
    """An opened stage's models are those that the run was planned with, by whose cards its results are named.

    Raises:
        TryAgain: one was replaced since.
    """
    for card, before in zip(stage.cards(), planned, strict=False):
        if card.card_id != before.card_id:
            raise TryAgain(
                f"{stage.name}: the {card.kind} {card.name!r} was replaced while the run went on (it began with "
                f"{before.card_id}, and there is {card.card_id} now)",
                "run the same command again, which works with what is there, or put the former back first",
            )


def upstream_of(name: str, planned: Collection[str]) -> tuple[str, ...]:
    """What a stage stands on where these are planned: an optional stage takes the place of what it measures."""
    above = KINDS[name].upstream
    for gate, (measured, readers) in GATES.items():
        if gate in planned and name in readers:
            above = tuple(gate if stage == measured else stage for stage in above)
    return above


def build_stage(name: str, spec: PipelineSpec) -> Stage:
    """A stage from the spec. Cheap: models are loaded by `open`.

    It also reads the table of an optional stage before it: keys that are not in that one are none of its input.

    Raises:
        KeyError: no stage of this name works on partitions.
    """
    stage = MAKERS[name](spec.stages, spec)
    for gate, (_, readers) in GATES.items():
        if getattr(spec.stages, gate) is not None and name in readers:
            stage.inputs = (*stage.inputs, gate)
    return stage


def _segments(stages: StagesSpec, _: PipelineSpec) -> Stage:
    if isinstance(stages.segments, GivenSegmentsSpec):
        return GivenSegmentsStage(stages.segments, channels=stages.recordings.channels)
    return SegmentsStage(stages.segments, channels=stages.recordings.channels)


def _transcripts(stages: StagesSpec, _: PipelineSpec) -> Stage:
    from pipeline.transcripts import TranscriptsStage

    return TranscriptsStage(stages.transcripts)


def _words(stages: StagesSpec, _: PipelineSpec) -> Stage:
    from pipeline.words import WordsStage

    return GivenWordsStage(stages.words) if isinstance(stages.words, GivenWordsSpec) else WordsStage(stages.words)


def _units(stages: StagesSpec, _: PipelineSpec) -> Stage:
    from pipeline.units import UnitsStage

    return UnitsStage(stages.units)


def _audio_quality(stages: StagesSpec, _: PipelineSpec) -> Stage:
    return AudioQualityStage(stages.audio_quality or AudioQualitySpec())


def _text_quality(stages: StagesSpec, _: PipelineSpec) -> Stage:
    return TextQualityStage(stages.text_quality or TextQualitySpec())


MAKERS: dict[str, Callable[[StagesSpec, PipelineSpec], Stage]] = {
    "recordings": lambda stages, spec: RecordingsStage(stages.recordings, spec.source),
    "segments": _segments,
    "audio_quality": _audio_quality,
    "transcripts": _transcripts,
    "text_quality": _text_quality,
    "words": _words,
    "units": _units,
    "patches": lambda stages, spec: PatchesStage(stages.patches, hop=unit_tokenizer(spec)["hop"]),
}
"""Stage -> how the spec makes it. What loads slowly is imported there."""


def unit_tokenizer(spec: PipelineSpec) -> dict[str, int]:
    """`hop` (samples at 16 kHz per unit) and `num_units`. Hashes the models: where a plan is at hand, ask its cards."""
    from pipeline.units import UnitsStage

    return unit_tokenizer_of(UnitsStage(spec.stages.units).cards())


def unit_tokenizer_of(cards: Iterable[Card]) -> dict[str, int]:
    """`hop` (samples at 16 kHz per unit) and `num_units`, from the card of the unit tokenizer among others."""
    card = next(card for card in cards if card.kind == "unit_tokenizer")
    return {name: int(card.facts[name]) for name in ("hop", "num_units")}
