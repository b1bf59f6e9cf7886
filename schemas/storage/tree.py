"""The files below a folder, all of them or an error.

fsspec's own `walk`, `find` and `glob` take a folder that could not be listed for an empty one, and go on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
from fsspec.utils import glob_translate

from schemas.storage.retry import asked_again

SIGNS = re.compile(r"[*?\[]")
"""What makes a path a pattern."""
ANY_DEPTH = 1 << 16


def is_local(filesystem: Any) -> bool:
    """Whether it is that of this machine."""
    return "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,))


def is_folder(filesystem: Any, path: str) -> bool:
    """Whether a folder is there; a storage that cannot answer now is asked again.

    Raises:
        OSError: a StorageError where the storage did not answer for minutes.
    """
    return bool(asked_again(path, lambda: filesystem.isdir(path)))


def local_files(
    folder: str, depth: int = ANY_DEPTH, prefix: str = "", above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[str, os.stat_result]]:
    """(path relative to it, status) of each file of this machine's folder and, down to `depth`, of those in it.

    What goes while it is listed is missing from the list, and nothing else with it. A link back to one of the folders `above`
    (device, inode) is not followed.

    Raises:
        OSError: a folder that is there cannot be listed.
    """
    try:
        at = os.stat(folder)
        if (at.st_dev, at.st_ino) in above:
            return
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            try:
                is_folder, status = entry.is_dir(), entry.stat() if entry.is_file() else None
            except FileNotFoundError:
                continue
            if is_folder and depth > 1:
                yield from local_files(
                    entry.path, depth - 1, f"{prefix}{entry.name}/", (*above, (at.st_dev, at.st_ino))
                )
            elif status is not None:
                yield prefix + entry.name, status


def remote_files(filesystem: Any, folder: str, depth: int = ANY_DEPTH) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path as the filesystem names it, its entry) of each file below a folder; in one listing where the filesystem has that.

    Raises:
        OSError: a folder that is there cannot be listed; a StorageError where the storage did not answer for minutes.
    """
    if depth == ANY_DEPTH and _finds_at_once(filesystem):
        yield from asked_again(folder, lambda: filesystem.find(folder, detail=True)).items()
        return
    try:
        entries = asked_again(folder, lambda: filesystem.ls(folder, detail=True))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry["type"] != "directory":
            yield str(entry["name"]), entry
        elif depth > 1 and str(entry["name"]).rstrip("/") != folder.rstrip("/"):
            yield from remote_files(filesystem, str(entry["name"]), depth - 1)


def _finds_at_once(filesystem: Any) -> bool:
    """Whether `find` is the filesystem's own: object stores list a prefix, and fail where a request fails."""
    kind = type(filesystem)
    own = getattr(kind, "_find", AsyncFileSystem._find) is not AsyncFileSystem._find
    return own or kind.find is not AbstractFileSystem.find


def files_below(filesystem: Any, folder: str) -> list[str]:
    """Every file below a folder, sorted, as the filesystem names them.

    Raises:
        OSError: a folder that is there cannot be listed.
    """
    if is_local(filesystem):
        return sorted(f"{folder}/{name}" for name, _ in local_files(folder))
    return sorted(name for name, _ in remote_files(filesystem, folder))


def matching_files(filesystem: Any, pattern: str) -> list[str]:
    """The files that a pattern matches, sorted, as the filesystem names them. `**` is any number of folders.

    Raises:
        OSError: a folder that is there cannot be listed.
    """
    root = SIGNS.split(pattern, maxsplit=1)[0].rpartition("/")[0]
    depth = ANY_DEPTH if "**" in pattern else pattern[len(root) :].strip("/").count("/") + 1
    if is_local(filesystem):
        names = (f"{root}/{name}" for name, _ in local_files(root or "/", depth))
    else:
        names = (name for name, _ in remote_files(filesystem, root, depth))
    matches = re.compile(glob_translate(pattern)).match
    return sorted(name for name in names if matches(name))
