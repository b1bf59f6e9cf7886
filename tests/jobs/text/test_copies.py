"""Copies of a file count once, and nothing is a copy that differs anywhere."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from jobs.text.files import Item, _together, plan_items
from tests.jobs.text.test_text_shards import run, texts, write

END = "alike " * 11_000
"""More than the 64 KiB of either end that a probe is of."""


def put(folder: Path, name: str, middle: str) -> Path:
    folder.mkdir()
    return write(folder / name, [f"{END}a", middle, f"{END}b"])


@pytest.mark.parametrize("name", ["x.jsonl", "x.txt"])
def test_files_that_differ_in_their_middle_are_no_copies(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one name, one size and alike ends, as records of fixed width have them, the second and its text were left out."""
    files = [
        put(tmp_path / str(number), name, middle) for number, middle in enumerate(("one", "two", "two", "one", "six"))
    ]
    found = texts(run([*files, files[1]], tmp_path / "out", "--document-chars", "1"))
    assert [text for text in found if not text.startswith("alike")] == ["one", "two", "six"]
    assert "3 files, or parts of them, were copies of others" in capsys.readouterr().out


def test_the_first_of_them_is_the_item_that_it_was_alone(tmp_path: Path) -> None:
    """So what was written before is not written again."""
    one, two = (str(put(tmp_path / middle, "x.jsonl", middle)) for middle in ("one", "two"))
    (alone,), _ = plan_items([one], ["text"], 1_000_000)
    both, copies = plan_items([one, two], ["text"], 100_000)
    assert (len({item.name for item in both}), copies) == (len(both), 0)
    assert [item.name for item in plan_items([one], ["text"], 100_000)[0]] == [
        item.name for item in both[: len(both) // 2]
    ]
    assert plan_items([one, one], ["text"], 1_000_000) == ([alone], 1)


def test_remote_files_are_told_apart_too(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for middle in ("one", "two"):
        store.pipe(f"/text/{middle}/x.jsonl", put(tmp_path / middle, "x.jsonl", middle).read_bytes())
    items, copies = plan_items(["memory://text"], ["text"], 50_000)
    assert copies == 0
    assert len({item.name for item in items}) == len(items)


class Piece:
    """A small file that counts how often its size is asked for."""

    asked = 0

    @property
    def size(self) -> int:
        Piece.asked += 1
        return 1


def test_small_files_are_put_together_in_one_pass() -> None:
    """Each was added up anew for every other of its item: minutes for the 65,536 files of 1 KiB that fill one."""
    pieces = [Piece() for _ in range(1000)]
    items: list[Item] = list(_together(pieces, 400))  # type: ignore[arg-type]
    assert [len(item.pieces) for item in items] == [400, 400, 200]
    assert Piece.asked < 4 * len(pieces)
