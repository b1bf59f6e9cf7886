"""Patch policies: which elements share a latent, and which of them are known to end it.

A policy works on one document. Units are patched within a speech span (a maximal run of units) and the grid restarts in
each span; every other element is a patch of its own. `closed[j]` says that the patch of element j is known to be complete
from elements up to j alone: the causal conditioning rule rests on it (docs/patching.md). To add a policy that needs no alignment,
write a `BoundaryRule`.

Shape suffixes: none; arrays have one entry per element (length n).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal, Protocol, Self

import numpy as np
from pydantic import Field, model_validator

from model.data.document import Document
from schemas.audio import PATCH_SILENCE, PATCH_WORD
from schemas.cards import hash_file
from schemas.config import BY_CONTENT, ConfigError, StrictModel
from schemas.models.boundaries import BoundaryTable, cut

BOUNDARIES = "boundaries.npz"
"""The table of a learned policy, in the folder of a run and of an exported model."""


class StaticConfig(StrictModel):
    """Runs of `size` units; the last of a span may be shorter. Size 1: no patching, the paper's ablation."""

    policy: Literal["static"]
    """Fixed size."""
    size: int = Field(ge=1)
    """Units per patch."""


class AlignedConfig(StrictModel):
    """One patch per word and per silence, from the shard."""

    policy: Literal["aligned"]
    """One patch per word and per silence."""
    silence: Literal["separate", "merged"]
    """`merged` joins a silence to the word before it, or after it where a span begins with silence."""
    max_size: int = Field(ge=1)
    """Longer patches are cut."""


class BpeAlignedConfig(StrictModel):
    """As `aligned` with silences separate, and words cut where a token of the text tokenizer begins."""

    policy: Literal["bpe_aligned"]
    """One patch per text token and per silence."""
    max_size: int = Field(ge=1)
    """Longer patches are cut."""


class DynamicConfig(StrictModel):
    """Alignment-free and causal: `rule` closes a patch from the units already seen. Usable unchanged at generation."""

    policy: Literal["dynamic"]
    """Alignment-free, from the units alone."""
    rule: Literal["novelty"]
    """`novelty`: close at a unit that differs from the one before it (see `NoveltyRule`)."""
    min_size: int = Field(ge=1)
    """No patch but the last of a span is shorter."""
    max_size: int = Field(ge=1)
    """Longer patches are cut."""

    @model_validator(mode="after")
    def _sizes_are_ordered(self) -> Self:
        if self.min_size > self.max_size:
            raise ValueError(f"min_size {self.min_size} must not exceed max_size {self.max_size}")
        return self


class LearnedConfig(StrictModel):
    """Alignment-free and causal: patches end where a fitted table says, from the units so far. Usable unchanged at generation."""

    policy: Literal["learned"]
    """By a table of boundaries, which has its least and greatest length."""
    boundaries: Annotated[str, BY_CONTENT]
    """The file of `lst fit-boundaries`. A run keeps a copy of it."""
    sha256: str | None = None
    """Of that file: written down when a run starts, so that no other is ever read in its place."""
    unit_offset: int | None = Field(None, ge=0)
    """Id of unit 0 in the model's vocabulary: written down when a run starts."""


CausalPolicy = StaticConfig | DynamicConfig | LearnedConfig
"""Policies that need no alignment: they are used unchanged at generation."""
SimplePolicy = Annotated[CausalPolicy | AlignedConfig | BpeAlignedConfig, Field(discriminator="policy")]


class MixedConfig(StrictModel):
    """`aligned` with this probability, else `otherwise`, drawn per document."""

    policy: Literal["mixed"]
    """Aligned or not, by a draw per document."""
    aligned: AlignedConfig | BpeAlignedConfig
    """With `probability`."""
    otherwise: SimplePolicy
    """Else."""
    probability: float = Field(ge=0, le=1)
    """Of `aligned`."""


class CurriculumConfig(StrictModel):
    """Aligned until `tau1`, then ever less often until `tau2`, then never (paper, section 3); drawn per document.

    Both are shares of the training run: the paper has 1/3 and 2/3.
    """

    policy: Literal["curriculum"]
    """Aligned first, `otherwise` in the end."""
    aligned: AlignedConfig | BpeAlignedConfig
    """At the beginning."""
    otherwise: SimplePolicy
    """In the end, and at inference."""
    tau1: float = Field(ge=0, le=1)
    """Until this share of the run all documents are aligned."""
    tau2: float = Field(ge=0, le=1)
    """From this share on none is."""

    @model_validator(mode="after")
    def _taus_are_ordered(self) -> Self:
        if self.tau1 > self.tau2:
            raise ValueError(f"tau1 {self.tau1} must not exceed tau2 {self.tau2}")
        return self


PatchPolicyConfig = Annotated[
    CausalPolicy | AlignedConfig | BpeAlignedConfig | MixedConfig | CurriculumConfig, Field(discriminator="policy")
]


class BoundaryRule(Protocol):
    """Decides patch ends from the units seen so far."""

    patch_local: bool
    """Whether the units of the open patch alone decide: generation then forgets the finished patches of a span."""

    def ends(self, units: np.ndarray) -> np.ndarray:
        """bool [t]: a patch ends after unit j of the span; entry j may depend on units[: j + 1] alone.

        `units` are ids of the model's vocabulary.
        """


class StaticRule:
    """A patch ends after every `size` units."""

    patch_local = True

    def __init__(self, size: int) -> None:
        self.size = size

    def ends(self, units: np.ndarray) -> np.ndarray:
        ends: np.ndarray = np.arange(len(units)) % self.size == self.size - 1
        return ends


class NoveltyRule:
    """A patch ends at the first unit that differs from the one before it, once it has `min_size` units, or at `max_size`.

    Within one sound units repeat, so patches end where sounds change and last longer where nothing happens.
    """

    patch_local = True

    def __init__(self, min_size: int, max_size: int) -> None:
        self.min_size, self.max_size = min_size, max_size

    def ends(self, units: np.ndarray) -> np.ndarray:
        novel = np.flatnonzero(np.diff(units, prepend=units[:1]))
        return cut(
            novel, len(units), max(self.min_size, 2), self.max_size
        )  # a boundary after one unit would teach nothing: the first unit of a patch is always new


class LearnedRule:
    """A patch ends where the table's score of the units so far reaches its threshold."""

    patch_local = False

    def __init__(self, table: BoundaryTable, unit_offset: int) -> None:
        self.table, self.unit_offset = table, unit_offset

    def ends(self, units: np.ndarray) -> np.ndarray:
        return self.table.ends(units - self.unit_offset)


@lru_cache(maxsize=8)
def load_boundaries(path: str, sha256: str | None) -> BoundaryTable:
    """The table of a learned policy, read once per process.

    Raises:
        ConfigError: it is missing, or another than the run was trained with.
    """
    table = BoundaryTable.load(path)
    if sha256 is not None and hash_file(path) != sha256:
        raise ConfigError(f"the boundaries {path} are not those that the model was trained with", "put those back")
    return table


def boundary_rule(config: CausalPolicy) -> BoundaryRule:
    """The causal rule of a policy that needs no alignment."""
    if isinstance(config, StaticConfig):
        return StaticRule(config.size)
    if isinstance(config, LearnedConfig):
        return LearnedRule(load_boundaries(config.boundaries, config.sha256), config.unit_offset or 0)
    return NoveltyRule(config.min_size, config.max_size)


def assign_patches(
    config: PatchPolicyConfig, document: Document, progress: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Latent of each element (int32 [n], from 0) and whether its patch is known to be complete (bool [n]).

    `progress` in [0, 1] is the share of training done (curriculum); only mixed and curriculum draw from `rng`, once.

    Raises:
        ConfigError: the policy needs alignment (or, where words are spoken, character times) that the document lacks.
    """
    policy = choose_policy(config, progress, rng)
    if isinstance(policy, CausalPolicy):
        closed = _causal_ends(boundary_rule(policy), document)
        start = np.concatenate([[True], closed[:-1]])
    else:
        start, closed = _aligned_starts(policy, document)
    start |= ~document.is_unit
    start |= _run_starts(document.is_unit)
    latent_id = np.cumsum(start, dtype=np.int32) - np.int32(1)
    return latent_id, closed | ~document.is_unit


def choose_policy(
    config: PatchPolicyConfig, progress: float, rng: np.random.Generator
) -> CausalPolicy | AlignedConfig | BpeAlignedConfig:
    """The policy that a document gets: the draw of mixed and curriculum."""
    if isinstance(config, MixedConfig):
        probability = config.probability
    elif isinstance(config, CurriculumConfig):
        probability = aligned_probability(config, progress)
    else:
        return config
    return config.aligned if rng.random() < probability else config.otherwise


def aligned_probability(config: CurriculumConfig, progress: float) -> float:
    """The paper's P(u): 1 before tau1, falling linearly to 0 at tau2."""
    if progress < config.tau1:
        return 1.0
    if progress >= config.tau2:
        return 0.0
    return 1.0 - (progress - config.tau1) / (config.tau2 - config.tau1)


class OnlinePatcher:
    """Patches for one sequence as it is generated: the same boundaries as `assign_patches`, one element at a time."""

    def __init__(self, config: PatchPolicyConfig) -> None:
        """
        Raises:
            ValueError: the policy needs alignment, which a text that does not exist yet cannot have.
        """
        policy = config.otherwise if isinstance(config, MixedConfig | CurriculumConfig) else config
        if not isinstance(policy, CausalPolicy):
            raise ValueError(
                f"patch policy {policy.policy!r} needs alignment; use static, dynamic or learned to generate"
            )
        self.rule = boundary_rule(policy)
        self.span: list[int] = []
        """Units of the speech span so far, or of the open patch where they alone decide."""
        self.open = False

    def observe(self, element: int, is_unit: bool) -> tuple[bool, bool]:
        """(the element begins a new latent, its patch is known to be complete)."""
        if not is_unit:
            self.span, self.open = [], False
            return True, True
        self.span.append(element)
        begins, closed = not self.open, bool(self.rule.ends(np.asarray(self.span))[-1])
        self.open = not closed
        if closed and self.rule.patch_local:
            self.span = []
        return begins, closed


def _run_starts(flag: np.ndarray) -> np.ndarray:
    """bool [n]: a maximal run of True begins here."""
    starts: np.ndarray = flag & ~np.concatenate([[False], flag[:-1]])
    return starts


def _spans(is_unit: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_unit, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _causal_ends(rule: BoundaryRule, document: Document) -> np.ndarray:
    closed = np.zeros(len(document.ids), dtype=bool)
    for start, stop in _spans(document.is_unit):
        closed[start:stop] = rule.ends(document.ids[start:stop])
    return closed


def _aligned_starts(config: AlignedConfig | BpeAlignedConfig, document: Document) -> tuple[np.ndarray, np.ndarray]:
    unit = document.is_unit
    if unit.any() and not document.patch_start.any():
        raise ConfigError(
            f"document {document.sample_id}: policy {config.policy!r} needs word patches; the shard has none"
        )
    start = document.patch_start & unit
    if isinstance(config, BpeAlignedConfig):
        if (document.patch_kind == PATCH_WORD).any() and not document.token_start.any():
            raise ConfigError(
                f"document {document.sample_id}: policy 'bpe_aligned' needs character times; write the shards with them"
            )
        start = start | (document.token_start & unit)
    elif config.silence == "merged":
        start = _merge_silence(start, document)
    start = start | _run_starts(unit)
    index = np.arange(len(unit))
    since_start = index - np.maximum.accumulate(np.where(start | ~unit, index, 0))
    start |= unit & (since_start % config.max_size == 0)
    # A patch cut at its greatest length is known to be complete; a word's end is known only from what follows.
    return start, unit & (since_start % config.max_size == config.max_size - 1)


def _merge_silence(start: np.ndarray, document: Document) -> np.ndarray:
    opens_span = _run_starts(document.is_unit)
    silence = start & (document.patch_kind == PATCH_SILENCE)
    merged = start & (~silence | opens_span)
    # A word right after the silence that opens a span: the patch start before it is that silence.
    places = np.flatnonzero(start | opens_span)
    after_opening = (opens_span & (document.patch_kind == PATCH_SILENCE))[places[:-1]]
    merged[places[1:][after_opening]] = False
    result: np.ndarray = merged | opens_span
    return result
