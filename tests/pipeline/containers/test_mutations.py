"""Damaged files of every format: none exhausts memory, hangs, raises, or loses sound that another decoder finds."""

from __future__ import annotations

import pytest

from benchmarks.stress.mutations import damage_and_read, judge, whole_files


def test_whole_files_are_accepted() -> None:
    files = whole_files(0)
    assert len(files) == 22
    assert {name: judge(content) for name, content in files.items()} == dict.fromkeys(files, ("accepted", ""))


@pytest.mark.parametrize("count", [2200, pytest.param(100_000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_whole_or_rejected(count: int) -> None:
    outcomes, lines = damage_and_read(count, seed=1)
    assert lines == []
    assert outcomes["rejected"] > count // 2
    assert outcomes["accepted"] > count // 10
