"""What is continued: prompts by name."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import fsspec
import numpy as np
import pytest

from model.data.sources import DataConfig, UnitFacts
from model.generate import make_parser, read_prompts
from schemas.cards import Card
from schemas.config import ConfigError
from schemas.reading.shard_reader import read_index
from schemas.tasks import TaskHeader, TaskItem, TaskSegment, write_task
from tests.synthetic_shards import write_speech_shards


def prompts_of(source: str) -> list[Any]:
    given = make_parser().parse_args(["--checkpoint", "unread", "--speech", source])
    card = Card(kind="unit_tokenizer", name="random", facts={"units": 20})
    units = UnitFacts(num_units=20, hop=640, cards={card.card_id: card})
    data = DataConfig.model_validate(
        {"sources": [{"kind": "speech", "data": "x", "weight": 1}], "tokenizer": {"path": "unread"}}
    )
    return read_prompts(given, 25.0, cast(Any, SimpleNamespace(units=units, config=SimpleNamespace(data=data))))


def test_an_array_of_units_may_lie_in_a_bucket() -> None:
    """Shards were read from there, and arrays looked for in a folder of this machine that is called after the bucket."""
    file = io.BytesIO()
    np.save(file, np.arange(7, dtype=np.uint16))
    fsspec.filesystem("memory").pipe("/units/clip.npy", file.getvalue())
    (prompt,) = prompts_of("memory://units/clip.npy")
    assert prompt.name == "clip.npy"
    assert prompt.units.tolist() == list(range(7))


@pytest.mark.parametrize("name", ["none.npy", "none.jsonl"])
def test_what_is_not_there_is_a_sentence_with_its_url(name: str) -> None:
    with pytest.raises(ConfigError, match=f"memory://units/{name}"):
        prompts_of(f"memory://units/{name}")


def test_units_of_another_making_are_refused(tmp_path: Path) -> None:
    """As in scoring: a model went on with them as if they were its own sounds."""
    for num_units in (20, 19):
        index = write_speech_shards(tmp_path / str(num_units), [1], num_units=num_units)
        task = tmp_path / f"{num_units}.jsonl"
        header = TaskHeader(task="a", cards=read_index(str(index)).cards, num_units=num_units, hop=640)
        units = TaskSegment(text="a", units=[1, 2])
        write_task(task, header, [TaskItem(id="a", group="a", prompt=units, endings=[units, units], answer=0)])
        for source in (str(index), str(task)):
            if num_units == 20:
                assert len(prompts_of(source)[0].units)
            else:
                with pytest.raises(ConfigError, match="has units of unit_tokenizer-random"):
                    prompts_of(source)
