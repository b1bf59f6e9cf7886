"""A value of a type that nobody expects costs its row: no corpus's table ends a listing with an exception of Python."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.source.inventory import list_source
from schemas.config import ConfigError
from tests.pipeline.corpora.fixtures import text
from tests.pipeline.corpora.layouts import MAKERS
from tests.pipeline.corpora.test_layouts import source_of

ODD: tuple[Any, ...] = (None, -1, True, [None], {"a": 1}, "x")
TABLES = {
    "lhotse": "data/all_cuts.jsonl.gz",
    "gigaspeech": "GigaSpeech.json",
    "peoples_speech": "train/clean.json",
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value; of a list its first two members stand for all."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:2] if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(document)
    owner = changed
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    return changed


@pytest.mark.parametrize("layout", TABLES)
def test_a_value_of_another_type_costs_its_row(layout: str, tmp_path: Path) -> None:
    """Every value of the first row of the fixture, by turns, as null, a number, a truth, a list, an object, a word."""
    source = source_of(tmp_path, layout, MAKERS[layout](tmp_path))
    table = tmp_path / TABLES[layout]
    packed = table.suffix == ".gz"
    content = gzip.decompress(table.read_bytes()) if packed else table.read_bytes()
    first, rest = content.split(b"\n", 1) if layout != "gigaspeech" else (content, b"")
    document = json.loads(first)
    paths = list(places(document))
    assert len(paths) > 5
    for number, path in enumerate(paths):
        changed = json.dumps(with_value(document, path, ODD[number % len(ODD)])).encode() + b"\n" + rest
        table.write_bytes(gzip.compress(changed) if packed else changed)
        try:
            list_source(source)
        except ConfigError:  # where it leaves nothing to read, a sentence
            continue


def test_an_utterance_of_no_recording_costs_its_line(tmp_path: Path) -> None:
    source = source_of(tmp_path, "kaldi", MAKERS["kaldi"](tmp_path))
    (segments,) = tmp_path.rglob("segments")
    text(segments, segments.read_text() + "lonely\n")
    items = {item.uri: item.detail for item in list_source(source)}
    assert any("lonely" in (detail or "") for detail in items.values())
