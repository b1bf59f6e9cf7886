"""What models say to the same prompts, ready to be shown and heard: continuations in speech and in text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from model.data.patching import (
    CausalPolicy,
    CurriculumConfig,
    LearnedConfig,
    MixedConfig,
    PatchPolicyConfig,
    boundary_rule,
)
from model.data.shards import ShardSet
from model.data.sources import command_cache
from model.inference.continuation import Generated, Generator
from model.inference.sampling import Sampling
from model.inference.trained import Trained
from model.voice.synthesiser import Synthesiser, at_16k
from schemas.audio import PATCH_WORD
from schemas.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class DemoPrompt:
    """A prompt: the beginning of a sample, or a text."""

    name: str
    text: str
    units: np.ndarray | None
    """None: a text prompt."""
    audio: np.ndarray | None
    """float32 at 16 kHz: the recording itself, where the shards carry it."""
    words: tuple[tuple[str, int, int], ...] = ()
    """(word, first frame, frame after) within the prompt."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a model made of a prompt."""

    label: str
    """Of the model."""
    to_speech: bool
    text: str
    units: np.ndarray
    """The prompt's units, if it has some, and the new ones."""
    prompt_frames: int
    audio: np.ndarray | None
    """float32 at 16 kHz, spoken by the synthesiser throughout."""
    patches: tuple[tuple[int, int, int], ...]
    """(start, end, kind) of the model's own patches; none for a plain transformer."""
    ended: bool


@dataclass(frozen=True, kw_only=True)
class SpeakingModel:
    """A model with its voice."""

    label: str
    trained: Trained
    generator: Generator
    synthesise: Synthesiser | None


def speech_prompts(index: str, count: int, seconds: float, speakers: Sequence[SpeakingModel]) -> list[DemoPrompt]:
    """The beginnings of `count` samples of speech shards, spread evenly over the set, for these models to go on. Copies of remote
    shards go where the first one's run keeps its own.

    Raises:
        ConfigError: there is no speech, or a model has units of another making.
        ShardError: the shards cannot be read.
    """
    shards = ShardSet(index, command_cache(speakers[0].trained.config.data, index))
    for speaker in speakers:
        if speaker.trained.units is not None:
            speaker.trained.units.check_tokenizer(shards.index.cards, index)
    places = [(shard, number) for shard, samples in enumerate(shards.counts) for number in range(samples)]
    count = min(count, len(places))
    chosen = [places[round(k * (len(places) - 1) / max(count - 1, 1))] for k in range(count)]
    prompts = [prompt for place in chosen for prompt in _prompt(shards, place, seconds)]
    if not prompts:
        raise ConfigError(f"{index} has no sample with speech to continue")
    return prompts


def _prompt(shards: ShardSet, place: tuple[int, int], seconds: float) -> Iterator[DemoPrompt]:
    sample = shards.read(*place)
    meta = sample.meta
    frames = min(round(seconds * 16_000 / meta.hop), len(sample.units))
    if not frames:
        return
    spans = zip(meta.words, sample.words, strict=True)
    words = tuple((meta.text[a:b], int(row[0]), int(row[1])) for (a, b), row in spans if row[1] <= frames)
    audio = shards.audio(*place)
    yield DemoPrompt(
        name=meta.key,
        text=" ".join(word for word, _, _ in words),
        units=np.asarray(sample.units[:frames]),
        audio=None if audio is None else audio[: frames * meta.hop],
        words=words,
    )


def listen(
    speaker: SpeakingModel, prompts: Sequence[DemoPrompt], *, seconds: float, tokens: int, sampling: Sampling
) -> list[list[Said]]:
    """Per prompt: the continuation forced to speech, and the one forced to text."""
    if not prompts:
        return []
    units = speaker.trained.units
    hop = units.hop if units is not None else 640
    encoded = [
        speaker.generator.text_prompt(prompt.text)
        if prompt.units is None
        else speaker.generator.speech_prompt(prompt.units)
        for prompt in prompts
    ]
    rows: list[list[Said]] = [[] for _ in prompts]
    for to in ("speech", "text") if units is not None else ("text",):
        run = speaker.generator.start(encoded, to, sampling, max_units=round(seconds * 16_000 / hop), max_tokens=tokens)
        for _ in run:
            pass
        for row, prompt, result in zip(rows, prompts, run.results(), strict=True):
            row.append(_said(speaker, prompt, result, to == "speech"))
    return rows


def _said(speaker: SpeakingModel, prompt: DemoPrompt, result: Generated, to_speech: bool) -> Said:
    before = np.zeros(0, np.uint16) if prompt.units is None else prompt.units
    units = np.concatenate([before, result.units]) if to_speech else np.zeros(0, np.uint16)
    audio = None
    if len(units) and speaker.synthesise is not None:
        audio = at_16k(speaker.synthesise(units), speaker.synthesise.sample_rate)
    plain = speaker.trained.module.config.kind == "plain"
    return Said(
        label=speaker.label,
        to_speech=to_speech,
        text=result.text,
        units=units,
        prompt_frames=len(before),
        audio=audio,
        patches=() if plain or not to_speech else _patches(speaker.generator, before, result),
        ended=result.ended,
    )


def _patches(generator: Generator, before: np.ndarray, result: Generated) -> tuple[tuple[int, int, int], ...]:
    """Those of a prompt's units and the new ones, as the model was given them."""
    bpe, offset = generator.composer.unit_bpe, generator.vocabulary.unit_offset
    new = [element - offset for kind, ids in result.spans if kind == "speech" for element in ids]
    tokens = np.concatenate([before if bpe is None else bpe.encode(before), np.asarray(new, dtype=np.int64)])
    return patches_of(generator.policy, tokens, None if bpe is None else bpe.lengths[tokens])


def patches_of(
    policy: PatchPolicyConfig, units: np.ndarray, lengths: np.ndarray | None = None
) -> tuple[tuple[int, int, int], ...]:
    """(start, end, kind) of the patches of a span of units under a policy that needs no alignment; none under another. Tokens of
    a unit BPE are given with their `lengths` in units."""
    if isinstance(policy, MixedConfig | CurriculumConfig):
        policy = policy.otherwise
    if not isinstance(policy, CausalPolicy) or not len(units):
        return ()
    offset = (policy.unit_offset or 0) if isinstance(policy, LearnedConfig) else 0
    ends = boundary_rule(policy).ends(units.astype(np.int64) + offset)
    ends[-1] = True
    stops = np.flatnonzero(ends) + 1
    if lengths is not None:
        stops = np.cumsum(lengths)[stops - 1]
    starts = np.concatenate([[0], stops[:-1]])
    return tuple((int(a), int(b), PATCH_WORD) for a, b in zip(starts, stops, strict=True))
