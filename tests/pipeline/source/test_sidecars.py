"""Texts beside recordings: which file speaks of which, and what in it is a text."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.source.inventory import list_source
from schemas.spec import Source
from tests.pipeline.source.test_inventory import make_source


def test_sidecars_are_read_beside_their_audio(tmp_path: Path) -> None:
    make_source(tmp_path, "x/1.flac", "x/2.flac", "84/121/84-121-0000.flac", "x/none.flac")
    (tmp_path / "x/1.txt").write_text("one\n two\n", encoding="utf-8")
    (tmp_path / "x/2.lab").write_text("deux", encoding="utf-8-sig")
    (tmp_path / "84/121/84-121.trans.txt").write_text("84-121-0000 GO DO YOU HEAR\n84-121-0001 OTHER\n")
    listed = {entry.uri: entry.transcript for entry in list_source(Source(uri=str(tmp_path), transcripts="sidecar"))}
    assert listed == {
        "84/121/84-121-0000.flac": "GO DO YOU HEAR",
        "x/1.flac": "one two",
        "x/2.flac": "deux",
        "x/none.flac": None,
    }


def test_a_sidecar_of_labels_is_no_text_and_timits_begins_with_samples(tmp_path: Path) -> None:
    """Their times were words that the aligner looked for in the speech."""
    texts = {
        "timit": "0 46797 She had your dark suit\n", "number": "0 1 2 go", "two": "10 5 go\n20 30 come",
        "htk": "0 1600000 sil\n1600000 2500000 hh\n",
    }  # fmt: skip
    make_source(tmp_path, *(f"{name}.flac" for name in texts))
    for name, content in texts.items():
        (tmp_path / f"{name}.lab").write_text(content)
    listed = {entry.uri: entry for entry in list_source(Source(uri=str(tmp_path), transcripts="sidecar"))}
    assert {uri: entry.transcript for uri, entry in listed.items()} == {
        "timit.flac": "She had your dark suit", "number.flac": "0 1 2 go", "two.flac": "10 5 go 20 30 come",
        "htk.flac": None, "htk.lab": None,
    }  # fmt: skip
    assert "labels with times" in (listed["htk.lab"].detail or "")


@pytest.mark.parametrize("odd", [".", "..", "a/b"])
def test_a_line_of_texts_that_names_no_file_beside_it_costs_itself(tmp_path: Path, odd: str) -> None:
    make_source(tmp_path, "1-2-0000.flac")
    (tmp_path / "1-2.trans.txt").write_text(f"{odd} OH\n1-2-0000 GO\n")
    items = list_source(Source(uri=str(tmp_path), transcripts="sidecar"))
    assert [(item.uri, item.transcript, item.refused) for item in items] == [
        ("1-2-0000.flac", "GO", None),
        ("1-2.trans.txt:1", None, "bad_row"),
    ]
