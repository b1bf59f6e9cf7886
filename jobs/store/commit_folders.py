"""Where commits lie, and listing them while a run adds to them and gathers them (jobs/store/commit_log.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from schemas.errors import TryAgain
from schemas.storage.files import Files

Result = TypeVar("Result")
LOOKS = 5
"""A run gathers once in some minutes, and opening what is listed takes seconds."""

Listed = dict[str, list[str]]
"""Folder -> names of files in it, for every stage and fingerprint there is."""


def folder_of(stage: str, fingerprint: str) -> str:
    """Where a stage's commits lie."""
    return f"commits/{stage}/{fingerprint[:16]}"


def list_commits(store: Files) -> Listed:
    """The files of all commits: one listing."""
    found: Listed = {}
    for path in store.find("commits"):
        folder, _, name = path.rpartition("/")
        found.setdefault(folder, []).append(name)
    return found


def while_it_stands(store: Files, read: Callable[[Listed], Result]) -> Result:
    """What `read` makes of the listed commits, made again where a run has gathered some of them meanwhile.

    What is gathered is in another file than it was, perhaps in one that was not listed, and would be missing.

    Raises:
        TryAgain: it happened every time.
    """
    listed = list_commits(store)
    for _ in range(LOOKS):
        result, before = read(listed), listed
        listed = list_commits(store)
        if not _gathered(before, listed):
            return result
    raise TryAgain(
        f"the commits of {store.root} are gathered faster than they can be opened", "run the same command again"
    )


def _gathered(before: Listed, after: Listed) -> bool:
    """Whether a file has gone between two listings, or a part has come, for which files may have gone before the first."""
    for folder in {*before, *after}:
        old, new = set(before.get(folder, ())), set(after.get(folder, ()))
        gone = any(not name.endswith(".tmp") for name in old - new)
        if gone or any(name.endswith(".parquet") for name in new - old):
            return True
    return False
