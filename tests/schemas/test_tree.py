"""A listing holds every file that stays there, or is an error: no folder is left out because it could not be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from schemas.errors import StorageError
from schemas.storage import retry
from schemas.storage.files import Files
from schemas.storage.tree import is_folder, matching_files, remote_files

NAMES = ["a.txt", "commits/x/1.json", "commits/x/2.json", "commits/y/3.json", "commits/y/deep/4.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


class Walked(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A filesystem that lists folder by folder, as SFTP and HDFS do; one folder may fail."""

    cachable = False
    fails: OSError | None = None

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        if path.endswith("/y") and self.fails is not None:
            raise self.fails
        return fsspec.filesystem("file").ls(path, detail=detail)


def unreadable(monkeypatch: pytest.MonkeyPatch, end: str, number: int) -> None:
    """Listing folders of this name fails from now on."""
    honest = os.scandir

    def scandir(path: Any = ".") -> Any:
        if str(path).endswith(end):
            raise OSError(number, os.strerror(number), str(path))
        return honest(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_tree_is_what_was_written(folder: Path) -> None:
    files = Files(str(folder))
    assert files.find("") == NAMES
    assert files.find("commits") == NAMES[1:]
    assert files.find("nothing") == []
    assert {name: entry["size"] for name, entry in files.tree("commits").items()} == {
        name.removeprefix("commits/"): len(name) for name in NAMES[1:]
    }
    assert sorted(name for name, _ in remote_files(Walked(), f"{folder}/commits")) == [
        f"{folder}/{name}" for name in NAMES[1:]
    ]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_listed_is_no_empty_folder(
    folder: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable(monkeypatch, "/y", number)
    for look in (Files(str(folder)).find, Files(str(folder)).stamps):
        with pytest.raises(OSError, match="y"):
            look("commits")
    with pytest.raises(OSError, match="y"):
        matching_files(fsspec.filesystem("file"), f"{folder}/**/*.json")


def test_elsewhere_too_and_what_passes_is_asked_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)
    walked = Walked()
    walked.fails = PermissionError(errno.EACCES, "no")
    with pytest.raises(PermissionError):
        list(remote_files(walked, f"{folder}/commits"))
    walked.fails = TimeoutError("no answer")
    with pytest.raises(StorageError):
        list(remote_files(walked, f"{folder}/commits"))
    walked.fails = FileNotFoundError(errno.ENOENT, "gone meanwhile")
    left = sorted(name for name, _ in remote_files(walked, f"{folder}/commits"))
    assert left == [f"{folder}/{name}" for name in NAMES[1:3]]


def test_whether_a_folder_is_there_is_asked_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.0)
    answers = [TimeoutError("no answer"), True]

    def isdir(path: str) -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    walked = Walked()
    monkeypatch.setattr(walked, "isdir", isdir)
    assert is_folder(walked, str(folder))


@pytest.mark.parametrize("pattern", ["*.txt", "commits/*/*.json", "commits/**/*.json", "**", "commits/[xz]/?.json"])
def test_a_pattern_matches_the_files_that_fsspec_says_it_matches(folder: Path, pattern: str) -> None:
    filesystem = fsspec.filesystem("file")
    wanted = [name for name in filesystem.glob(f"{folder}/{pattern}") if os.path.isfile(name)]
    assert matching_files(filesystem, f"{folder}/{pattern}") == wanted
    memory = fsspec.filesystem("memory")
    memory.put(f"{folder}/", "/tree/", recursive=True)
    try:
        found = matching_files(memory, f"/tree/{pattern}")
    finally:
        memory.rm("/tree", recursive=True)
    assert found == [name.replace(str(folder), "/tree") for name in wanted]


def test_a_link_back_to_a_folder_above_is_not_followed_and_another_is(folder: Path) -> None:
    (folder / "commits/x/up").symlink_to(folder)
    (folder / "beside").symlink_to(folder / "commits/y")
    assert Files(str(folder)).find("") == sorted([*NAMES, "beside/3.json", "beside/deep/4.json"])
