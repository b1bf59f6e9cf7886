"""A value of a type that nobody expects costs its row: no corpus's table ends a listing with an exception of Python."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpora.base import to_decimal, to_samples
from pipeline.given.unit_rows import parse_unit_row
from pipeline.source.inventory import list_source
from schemas.config import ConfigError
from tests.pipeline.corpora.fixtures import text, voice
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


@pytest.mark.parametrize("content", ["[" * 200_000, '{"speaker": "\\ud83d"}', '{"snr": NaN}', "[1]"])
def test_odd_facts_beside_a_chapter_cost_the_facts(content: str, tmp_path: Path) -> None:
    """Nested without end, half a character, no number: the recording is listed without them, and that is said."""
    source = source_of(tmp_path, "librilight", MAKERS["librilight"](tmp_path))
    (facts,) = tmp_path.rglob("*.json")
    text(facts, content)
    items = list(list_source(source))
    assert [item.refused for item in items if item.uri.endswith(".flac")] == [None]
    assert any("cannot be read as JSON" in (item.detail or "") for item in items)


def test_an_utterance_of_no_recording_costs_its_line(tmp_path: Path) -> None:
    source = source_of(tmp_path, "kaldi", MAKERS["kaldi"](tmp_path))
    (segments,) = tmp_path.rglob("segments")
    text(segments, segments.read_text() + "lonely\n")
    items = {item.uri: item.detail for item in list_source(source)}
    assert any("lonely" in (detail or "") for detail in items.values())


@pytest.mark.parametrize("time", ["1e999999", "9e999999999", "3e9", "-1e-999999999"])
def test_a_time_that_no_sum_can_be_made_of_is_no_time(time: str) -> None:
    """An overflow of decimal numbers is no ValueError: one such cell of a table ended a run with a traceback."""
    with pytest.raises(ValueError, match=r"longer than any recording|is not a time"):
        to_samples(time)


def test_a_time_next_to_nothing_is_nothing() -> None:
    """As a fraction, of which frames are rounded, it would have a denominator that fills the memory."""
    assert to_decimal("1e-999999999").as_integer_ratio() == (0, 1)
    assert to_decimal("0.0000625").as_integer_ratio() == (1, 16_000)


SLAMKIT = {"units": [3, 7], "duration": [2, 1], "aligned_text": [["so", 0.0, 0.08]], "text": "so", "file_name": "a.wav"}
CUT = {
    "id": "a",
    "supervisions": [
        {"text": "so", "custom": {"units": [3, 3, 7], "hop": 640}, "alignment": {"word": [["so", 0.0, 0.08]]}}
    ],
}
OFFICIAL = {"file_id": "a", "interleaved": "<LST MODE SEP>TEXT so <LST MODE SEP>HUBERT 3 3 7"}


@pytest.mark.parametrize("row", [SLAMKIT, CUT, OFFICIAL])
def test_a_row_of_units_with_a_value_of_another_type_costs_itself(row: dict[str, Any]) -> None:
    """Every value by turns as everything odd: it parses, or a ValueError says why not."""
    assert parse_unit_row(row, 640).units == [3, 3, 7]
    for path in places(row):
        for odd in (*ODD, 5, [["so"]], [], "1e999999999"):
            try:
                parse_unit_row(with_value(row, path, odd), 640)
            except ValueError:
                continue


def test_units_of_years_are_not_written_out() -> None:
    with pytest.raises(ValueError, match="last longer than any recording"):
        parse_unit_row(SLAMKIT | {"duration": [1 << 40, 1], "aligned_text": []}, 640)


def test_an_empty_id_costs_its_row(tmp_path: Path) -> None:
    """It ended the listing: "no column for the id"."""
    source = source_of(tmp_path, "voxpopuli", MAKERS["voxpopuli"](tmp_path))
    before = {item.uri for item in list_source(source)}
    table = next(path for path in sorted(tmp_path.rglob("asr_*.tsv")) if path.read_text().startswith("id"))
    columns = table.read_text().splitlines()[0].count("\t")
    text(table, table.read_text() + "\t" * columns + "x\n")
    more = {item.uri: item for item in list_source(source) if item.uri not in before}
    assert [item.detail for item in more.values()] == ["its id is empty"]


def test_a_text_that_is_not_utf8_costs_its_utterance(tmp_path: Path) -> None:
    """LibriTTS has a file for each: one of them ended the listing."""
    source = source_of(tmp_path, "librispeech", MAKERS["librispeech"](tmp_path))
    before = {item.uri for item in list_source(source)}
    voice(tmp_path / "9/8/9_8_1.flac", 9)
    (tmp_path / "9/8/9_8_1.normalized.txt").write_bytes(b"caf\xe9")
    more = {item.uri: item for item in list_source(source) if item.uri not in before}
    assert {uri: item.refused for uri, item in more.items()} == {
        "9/8/9_8_1.flac": None,
        "9/8/9_8_1.normalized.txt": "bad_row",
    }
    assert "is not UTF-8" in str(more["9/8/9_8_1.normalized.txt"].detail)
