"""Utterances in both forms, to recognise or to speak: from shards or from a task file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from model.data.compose import segments_of, utterance_of
from model.data.shards import ShardCache, ShardSet
from schemas.config import ConfigError
from schemas.tasks import read_task


@dataclass(frozen=True, kw_only=True)
class Example:
    """An utterance in both forms."""

    name: str
    text: str
    units: np.ndarray


def examples_of_shards(
    index: str,
    unit: Literal["segment", "passage"] = "segment",
    limit: int | None = None,
    cache: ShardCache | None = None,
) -> list[Example]:
    """Utterances of speech shards that have text, in their order. `cache`: for copies of remote ones.

    Raises:
        ShardError: the shards cannot be read.
        ConfigError: there is no speech with text in them.
    """
    found = list(islice(_utterances(ShardSet(index, cache), unit), limit))
    if not found:
        raise ConfigError(f"{index} has no speech with text")
    return found


def _utterances(shards: ShardSet, unit: str) -> Iterator[Example]:
    for shard, count in enumerate(shards.counts):
        for number in range(count):
            sample = shards.read(shard, number)
            if len(sample.units):
                parts = [utterance_of(sample)] if unit == "passage" else segments_of(sample)
                yield from (Example(name=p.name, text=p.text, units=p.units) for p in parts if p.text.strip())


def examples_of_task(path: str, limit: int | None = None) -> list[Example]:
    """The prompts and right endings of a prepared task that have both text and units, each once.

    Raises:
        TaskError: the file cannot be read.
        ConfigError: it has no such segment.
    """
    found: dict[str, Example] = {}
    for item in read_task(path).items:
        for segment in (item.prompt, item.endings[item.answer]):
            if segment.units and segment.text.strip() and segment.text not in found:
                name = f"{item.id}#{len(found)}"
                found[segment.text] = Example(name=name, text=segment.text, units=np.asarray(segment.units))
    if not found:
        raise ConfigError(f"{path} has no segment with text and units: prepare it with jobs/prepare_task.py")
    return list(found.values())[:limit]
