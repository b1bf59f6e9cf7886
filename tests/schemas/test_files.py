"""A file is published whole or not at all."""

import errno
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from schemas.files import whole_file
from schemas.storage.files import Files, opened


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


def test_a_name_may_be_as_long_as_names_may_be(tmp_path: Path) -> None:
    path = tmp_path / ("\u00e9" * 125 + ".json")
    with whole_file(path) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole"


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """As /dev/null does, which a rename replaced where the user was root."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_text()), daemon=True)
    reader.start()
    with whole_file(pipe) as partial:
        partial.write_text("whole")
    reader.join(10)
    assert heard == ["whole"]
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_what_goes_to_stdout_joins_what_is_there(tmp_path: Path) -> None:
    code = (
        "from schemas.files import whole_file\n"
        "print('before', flush=True)\n"
        "with whole_file('/proc/self/fd/1') as partial: partial.write_text('whole')\n"
    )
    log = tmp_path / "log"
    log.write_text("of old\n")
    with log.open("a") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert log.read_text() == "of old\nbefore\nwhole"


def test_a_disk_that_is_full_is_not_left_fuller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        Files(str(tmp_path)).write_bytes("folder/a.json", b"{}")
    assert pickle.loads(pickle.dumps(caught.value)).filename == f"{tmp_path}/folder/a.json"
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_file_that_goes_while_its_folder_is_listed_takes_no_other_from_the_list(tmp_path: Path) -> None:
    """Other processes write temporary files and remove old ones while one lists: a commit that is there is always seen."""
    stay = {f"commit-{number:03d}" for number in range(300)}
    for name in stay:
        (tmp_path / name).touch()
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for number in range(20):
                (tmp_path / f"{number}.tmp").touch()
            for number in range(20):
                (tmp_path / f"{number}.tmp").unlink()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(200):
            assert stay <= Files(str(tmp_path)).names("")
    finally:
        ended.set()
        thread.join()


def test_a_folder_may_have_two_colons_in_its_name(tmp_path: Path) -> None:
    """fsspec chains URLs by them: an output Foo::Bar was written into Foo beside it, and a source Foo::Bar was Foo."""
    (tmp_path / "Foo").mkdir()
    folder = tmp_path / "Foo::Bar"
    Files(str(folder)).write_bytes("a/b.txt", b"here")
    assert (folder / "a" / "b.txt").read_bytes() == Files(str(folder)).read_bytes("a/b.txt") == b"here"
    with opened(str(folder / "a" / "b.txt")) as file:
        assert file.read() == b"here"
    assert not list((tmp_path / "Foo").iterdir())
