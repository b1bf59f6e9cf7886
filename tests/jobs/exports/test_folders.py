"""Exports beside each other in one folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.exports.export import main as export
from tests.synthetic_shards import write_speech_shards


@pytest.mark.parametrize(("form", "pattern"), [("hf", "data/train-*.parquet"), ("lst-jsonl", "out.chunk.*.on_the_fly")])
def test_an_export_of_another_size_is_not_read_with_this_one(
    form: str, pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the set had become smaller or larger, a pattern found files of both, and rows came twice."""
    many, few = (str(write_speech_shards(tmp_path / str(count), [1] * count, seed=count)) for count in (3, 2))
    command = ["--format", form, "--out", str(tmp_path / "out")]
    assert export([many, *command]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob(pattern)}
    assert len(before) == 3
    assert export([many, *command]) == 0, "the same again"
    assert export([few, *command]) == 2
    assert "of another export" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob(pattern)} == before


def test_chunks_are_named_after_the_folder_that_a_dot_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were called `.chunk.00.on_the_fly`, which no `ls` shows and no pattern finds."""
    index = str(write_speech_shards(tmp_path / "shards", [1]))
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert export([index, "--format", "lst-jsonl", "--out", "."]) == 0
    assert [path.name for path in (tmp_path / "mine").glob("*.on_the_fly")] == ["mine.chunk.00.on_the_fly"]
