"""Continuing prompts in text and speech, several at once: what `python -m model.generate` and the transfer scores run on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import torch

from model.data.compose import Composer
from model.data.draws import generator
from model.data.patching import PatchPolicyConfig
from model.inference.patching import make_patching
from model.inference.sampling import Sampling, choose
from model.inference.session import Session
from model.inference.trained import Trained
from model.network.base import SpeechTextModel
from model.network.vocabulary import BOS, EOS, PAD, SPEECH_MARK, TEXT_MARK, Vocabulary
from schemas.config import ConfigError

Modality = Literal["text", "speech"]
Wish = Literal["text", "speech", "free"]
MARKS: dict[Modality, int] = {"text": TEXT_MARK, "speech": SPEECH_MARK}


@dataclass(frozen=True, kw_only=True)
class Element:
    """One generated element, as it comes."""

    row: int
    id: int
    """Joint vocabulary."""
    modality: Modality | None
    """Of text tokens and units; None: a mark, or EOS."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What became of one prompt."""

    ids: list[int]
    """The new elements, a mark that was put before them and EOS included."""
    text: str
    """Of the new text tokens; several spans are joined by a space."""
    units: np.ndarray
    """uint16: the new units, a unit BPE undone."""
    spans: list[tuple[Modality, list[int]]]
    """The new elements without marks, in runs of one modality."""
    ended: bool
    """EOS came; otherwise a limit was met."""
    prompt_latents: int
    """Latents begun within the prompt."""
    num_latents: int
    """Latents begun in all. A plain transformer has one per element."""
    num_global_steps: int
    """Steps of the global transformer: the latents that were complete."""


class Generator:
    """A trained model, ready to continue prompts."""

    def __init__(self, model: SpeechTextModel, composer: Composer, policy: PatchPolicyConfig) -> None:
        """`policy` must need no alignment.

        Raises:
            ConfigError: the model was trained under the published conditioning.
        """
        if model.config.conditioning == "paper":
            raise ConfigError("a model trained with conditioning: paper cannot generate: it is told where patches end")
        self.model, self.composer, self.policy = model, composer, policy

    @staticmethod
    def of(trained: Trained, patching: str = "auto") -> Generator:
        """`patching`: see `make_patching`. `auto` is what the model was trained with where that needs no alignment; of mixed and
        curriculum the part that needs none; for aligned patches alone, static ones of their mean length.

        Raises:
            ConfigError: the patching needs words, which what does not exist yet cannot have; or conditioning: paper.
        """
        wanted = make_patching(patching, trained.config.patches)
        if wanted.tells_boundaries:
            raise ConfigError(f"patching {patching!r} needs words; generate with auto, static:SIZE or dynamic:MIN:MAX")
        return Generator(trained.module, trained.composer(), wanted.ending)

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's: joint ids of text, marks and units."""
        return self.model.vocabulary

    def text_prompt(self, text: str) -> list[int]:
        """Joint ids of a document that begins with this text. An empty text is no prompt at all: BOS."""
        tokens = self.composer.tokenizer.encode(text)[0] if text else []
        return [BOS, *([TEXT_MARK] if tokens else []), *(token + self.vocabulary.text_offset for token in tokens)]

    def speech_prompt(self, units: Sequence[int] | np.ndarray) -> list[int]:
        """Joint ids of a document that begins with these units (before any unit BPE).

        Raises:
            ConfigError: a unit that the model does not have.
        """
        bpe = self.composer.unit_bpe
        known = self.vocabulary.num_units if bpe is None else bpe.num_units
        array = np.asarray(units, dtype=np.int64)
        if len(array) and not 0 <= array.min() <= array.max() < known:
            raise ConfigError(
                f"the prompt has units outside [0, {known}): was it made with the model's unit tokenizer?"
            )
        tokens = array if bpe is None else bpe.encode(array)
        return [BOS, SPEECH_MARK, *(tokens + self.vocabulary.unit_offset).tolist()]

    def start(
        self,
        prompts: Sequence[Sequence[int]],
        to: Wish = "free",
        sampling: Sampling | None = None,
        *,
        max_units: int = 250,
        max_tokens: int = 100,
        keys: Sequence[str] | None = None,
    ) -> Continuation:
        """A continuation of each prompt, to be iterated over. `to` forces the modality, or leaves it to the model; a row
        ends with EOS or at its limit of new units or text tokens (of a forced modality at that one's). `keys` name the rows
        (default: their numbers): a row's draws depend on the seed and its name alone, not on what else is in the batch.
        """
        return Continuation(self, prompts, to, sampling or Sampling(), (max_units, max_tokens), keys)

    def stream(
        self, prompts: Sequence[Sequence[int]], to: Wish = "free", sampling: Sampling | None = None, *,
        max_units: int = 250, max_tokens: int = 100, keys: Sequence[str] | None = None,
    ) -> Iterator[Element]:  # fmt: skip
        """The new elements one by one, all rows' first, then all rows' second, ... See `start`."""
        return iter(self.start(prompts, to, sampling, max_units=max_units, max_tokens=max_tokens, keys=keys))

    def generate(
        self, prompts: Sequence[Sequence[int]], to: Wish = "free", sampling: Sampling | None = None, *,
        max_units: int = 250, max_tokens: int = 100, keys: Sequence[str] | None = None,
    ) -> list[Generated]:  # fmt: skip
        """The whole continuations. See `start`."""
        run = self.start(prompts, to, sampling, max_units=max_units, max_tokens=max_tokens, keys=keys)
        for _ in run:
            pass
        return run.results()


class Continuation:
    """Prompts being continued: iterate over it, then ask for `results`."""

    def __init__(
        self,
        owner: Generator,
        prompts: Sequence[Sequence[int]],
        to: Wish,
        sampling: Sampling,
        limits: tuple[int, int],
        keys: Sequence[str] | None,
    ) -> None:
        if not prompts or not all(prompts):
            raise ConfigError("give at least one prompt, and at least one element (BOS) in each")
        if keys is not None and len(keys) != len(prompts):
            raise ConfigError(f"{len(keys)} keys for {len(prompts)} prompts")
        self.owner, self.to, self.sampling, self.limits = owner, to, sampling, limits
        self.prompts = [list(prompt) for prompt in prompts]
        self.seconds = 0.0
        """Spent on new elements, the prompt left out."""
        names = [str(row) for row in range(len(prompts))] if keys is None else list(keys)
        self._draws = [generator(sampling.seed, "generate", name) for name in names]
        self._new: list[list[int]] = [[] for _ in prompts]
        self._used = np.zeros((len(prompts), 2), dtype=np.int64)
        self._ended = [False] * len(prompts)
        self._modality = [_modality(prompt) for prompt in self.prompts]
        self._masks: dict[tuple[Modality | None, bool], torch.Tensor] = {}
        longest = max(map(len, prompts)) + sum(limits)
        self.session = Session(owner.model, owner.policy, len(prompts), capacity=min(longest, 512))
        self._prompt_latents = np.zeros(len(prompts), dtype=np.int64)

    def __iter__(self) -> Iterator[Element]:
        logits_BV = self.session.prefill(self.prompts)
        self._prompt_latents = self.session.num_latents_B.copy()
        begun = time.perf_counter()
        if self.to != "free":
            wrong = [modality != self.to for modality in self._modality]
            marks = [MARKS[self.to] if is_wrong else PAD for is_wrong in wrong]
            if any(wrong):
                marked_BV = self.session.feed(marks)
                logits_BV = torch.where(torch.tensor(wrong, device=logits_BV.device)[:, None], marked_BV, logits_BV)
                for row, mark in enumerate(marks):
                    if mark != PAD:
                        yield self._take(row, mark)
        rows = [row for row in range(len(self.prompts)) if not self._is_done(row)]
        while rows:
            allowed_RV = self._allowed(rows).to(logits_BV.device)
            logits_RV = logits_BV[rows].masked_fill(~allowed_RV, float("-inf"))
            ids = choose(logits_RV, self.sampling, [self._draws[row] for row in rows])
            self.seconds += time.perf_counter() - begun
            for row, element in zip(rows, ids, strict=True):
                yield self._take(row, element)
            begun = time.perf_counter()
            fed = [PAD] * len(self.prompts)
            for row, element in zip(rows, ids, strict=True):
                if not self._is_done(row):
                    fed[row] = element
            rows = [row for row in rows if fed[row] != PAD]
            if rows:
                logits_BV = self.session.feed(fed)
        self.seconds += time.perf_counter() - begun

    def results(self) -> list[Generated]:
        """What there is of each row so far."""
        return [self._result(row) for row in range(len(self.prompts))]

    def _take(self, row: int, element: int) -> Element:
        self._new[row].append(element)
        self._ended[row] |= element == EOS
        kind = self._kind(element)
        if kind is not None:
            self._used[row, int(kind == "text")] += self._length(element) if kind == "speech" else 1
        for modality, mark in MARKS.items():
            if element == mark:
                self._modality[row] = modality
        return Element(row=row, id=element, modality=kind)

    def _is_done(self, row: int) -> bool:
        full = self._used[row] >= self.limits
        if self.to != "free":  # what cannot come needs no limit: of a text model it is 0
            full = full[["speech", "text"].index(self.to)]
        return self._ended[row] or bool(full.any())

    def _allowed(self, rows: Sequence[int]) -> torch.Tensor:
        """bool [R, V]: what may come next in each row. PAD and BOS never; a mark only where the modality is free, and never
        after a mark."""
        last = [(self._new[row] or self.prompts[row])[-1] for row in rows]
        may_switch = [self.to == "free" and element not in MARKS.values() for element in last]
        return torch.stack(
            [self._mask(self._modality[row], switch) for row, switch in zip(rows, may_switch, strict=True)]
        )

    def _mask(self, modality: Modality | None, may_switch: bool) -> torch.Tensor:
        vocabulary, key = self.owner.vocabulary, (modality, may_switch)
        if key not in self._masks:
            mask_V = torch.zeros(vocabulary.size, dtype=torch.bool)
            if modality == "text":
                mask_V[vocabulary.text_offset : vocabulary.unit_offset] = True
            elif modality == "speech":
                mask_V[vocabulary.unit_offset :] = True
            mask_V[EOS] = modality is not None
            for other, mark in MARKS.items():
                mask_V[mark] = may_switch and other != modality
            self._masks[key] = mask_V
        return self._masks[key]

    def _kind(self, element: int) -> Modality | None:
        vocabulary = self.owner.vocabulary
        if element >= vocabulary.unit_offset:
            return "speech"
        return "text" if element >= vocabulary.text_offset else None

    def _length(self, element: int) -> int:
        bpe = self.owner.composer.unit_bpe
        return 1 if bpe is None else int(bpe.lengths[element - self.owner.vocabulary.unit_offset])

    def _result(self, row: int) -> Generated:
        composer, vocabulary = self.owner.composer, self.owner.vocabulary
        runs = [(kind, list(ids)) for kind, ids in groupby(self._new[row], self._kind)]
        spans = [(kind, ids) for kind, ids in runs if kind is not None]
        offset = {"text": vocabulary.text_offset, "speech": vocabulary.unit_offset}
        plain = [(kind, np.asarray(ids, dtype=np.int64) - offset[kind]) for kind, ids in spans]
        units = np.concatenate([np.zeros(0, dtype=np.int64), *(ids for kind, ids in plain if kind == "speech")])
        bpe = composer.unit_bpe
        session = self.session
        return Generated(
            ids=list(self._new[row]),
            text=" ".join(composer.tokenizer.decode(ids.tolist()).strip() for kind, ids in plain if kind == "text"),
            units=units.astype(np.uint16) if bpe is None else bpe.decode(units),
            spans=spans,
            ended=self._ended[row],
            prompt_latents=int(self._prompt_latents[row]),
            num_latents=int(session.num_latents_B[row]),
            num_global_steps=int(session.num_global_steps_B[row]),
        )


def _modality(ids: Sequence[int]) -> Modality | None:
    """What a document is in after these elements."""
    names: dict[int, Modality] = {mark: modality for modality, mark in MARKS.items()}
    return next((names[element] for element in reversed(ids) if element in names), None)
