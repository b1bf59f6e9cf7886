"""A file is published whole or not at all."""

from pathlib import Path

import pytest

from schemas.files import whole_file


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_appears_when_the_body_ends_well(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "new" / "a.json"
    with whole_file(path, durable=durable) as partial:
        partial.write_text("half")
        assert not path.exists()
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(UnicodeEncodeError), whole_file(path) as partial:
        partial.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
