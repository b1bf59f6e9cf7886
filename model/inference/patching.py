"""Which patches a trained model is given: those it was trained with, as far as they can be known at inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from model.data.patching import (
    AlignedConfig,
    BpeAlignedConfig,
    CausalPolicy,
    CurriculumConfig,
    DynamicConfig,
    MixedConfig,
    PatchPolicyConfig,
    StaticConfig,
)
from schemas.config import ConfigError

Policy = CausalPolicy | AlignedConfig | BpeAlignedConfig


LEAK_FREE_SIZE = 5
"""Units per patch of an ending where the model knows aligned patches alone: their mean length in speech."""


@dataclass(frozen=True, kw_only=True)
class Patching:
    """Which patches a document gets: those of the prompt, and those of the ending. Where the two are the same the grid runs on
    from one into the other, as in training; otherwise it restarts at the ending."""

    prompt: Policy
    ending: Policy

    @property
    def needs_words(self) -> bool:
        """Whether the words of an utterance must be known."""
        return not isinstance(self.prompt, CausalPolicy) or self.tells_boundaries

    @property
    def tells_boundaries(self) -> bool:
        """Whether the model is told where the words of the ending begin, which it could not know from what was said so far."""
        return not isinstance(self.ending, CausalPolicy)


def make_patching(wish: str, trained: PatchPolicyConfig) -> Patching:
    """The patching that `--patching` asks for.

    auto            as trained, without telling the model where the words of the ending are: mixed and curriculum by the part that
                    needs no alignment; aligned by the prompt's words, then patches of LEAK_FREE_SIZE
    aligned         words, in prompt and ending: what aligned training had, and a model is told the ending's boundaries
    static:4        patches of four units
    dynamic:2:8     the novelty rule with smallest and greatest patch

    Raises:
        ConfigError: it is none of these, or the model was not trained with aligned patches.
    """
    aligned, free = _parts(trained)
    if wish == "auto":
        if free is not None:
            return Patching(prompt=free, ending=free)
        rest = StaticConfig(policy="static", size=LEAK_FREE_SIZE)
        return Patching(prompt=aligned if isinstance(aligned, AlignedConfig) else rest, ending=rest)
    if wish == "aligned":
        if not isinstance(aligned, AlignedConfig):
            raise ConfigError(f"patching 'aligned' is for models trained with it; this one has {trained.policy!r}")
        return Patching(prompt=aligned, ending=aligned)
    name, *numbers = wish.split(":")
    fields: dict[str, object] = {"policy": name}
    if name == "static" and len(numbers) == 1:
        fields |= {"size": numbers[0]}
    elif name == "dynamic" and len(numbers) == 2:
        fields |= {"rule": "novelty", "min_size": numbers[0], "max_size": numbers[1]}
    else:
        raise ConfigError(f"unknown patching {wish!r}; give auto, aligned, static:SIZE or dynamic:MIN:MAX")
    try:
        policy: CausalPolicy = TypeAdapter(StaticConfig | DynamicConfig).validate_python(fields)
    except ValidationError as error:
        raise ConfigError(f"patching {wish!r}: {error.errors()[0]['msg']}") from error
    return Patching(prompt=policy, ending=policy)


def _parts(trained: PatchPolicyConfig) -> tuple[Policy | None, CausalPolicy | None]:
    """The part of a policy that needs alignment, and the one that does not."""
    members: Sequence[Policy] = (
        (trained.aligned, trained.otherwise) if isinstance(trained, MixedConfig | CurriculumConfig) else (trained,)
    )
    aligned = [part for part in members if isinstance(part, AlignedConfig | BpeAlignedConfig)]
    free = [part for part in members if isinstance(part, CausalPolicy)]
    return aligned[0] if aligned else None, free[0] if free else None
