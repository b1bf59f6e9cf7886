"""Which files lie under a source: linked folders are followed, and whatever cannot be listed is counted or named.

What is found is kept as columns, about 100 bytes a file, and comes in batches: a listing of 10^7 files fits a small machine.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.storage.files import is_folder_mark, stamp_of
from schemas.storage.retry import asked_again
from schemas.storage.tree import remote_files

MAX_DEPTH = 64
"""Folders in each other; deeper ones are counted, for only a loop of mounts makes them."""
MAX_LINKS = 3
"""Linked folders on one way: where ten folders link to each other, there are 10! ways through them."""
LISTERS = 16
"""Folders of an object storage that are listed side by side."""
OF_THE_FOLDER = frozenset({errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""What a file system says of a folder that it cannot show; anything else is of the moment or of this process."""
BATCH = 1 << 13
"""Files that are Python objects at a time."""
FILE = pa.schema([("name", pa.string()), ("bytes", pa.int64()), ("stamp", pa.string())])
"""stamp: what changes when the file does, its size with its etag or its times of change. Neither where a listing tells none."""

FileRow = tuple[str, int | None, str | None]
"""A row of FILE."""


@dataclass
class Found:
    """What a walk came upon: names relative to the root, with forward slashes."""

    files: pa.Table = field(default_factory=FILE.empty_table)
    """FILE, sorted by name."""
    broken: dict[str, str] = field(default_factory=dict)
    """Name -> a sentence: a link that leads nowhere, a name that no table can hold, something that is no file."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """What was not entered, by the reason: folders that cannot be read, links back to a folder above."""

    @cached_property
    def names(self) -> list[str]:
        """The names of all files, sorted."""
        names: list[str] = self.files.column("name").to_pylist()
        return names

    def rows(self) -> Iterator[FileRow]:
        """The files one after the other, sorted by name."""
        for batch in self.files.to_batches(BATCH):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    @cached_property
    def stamps(self) -> dict[str, str | None]:
        """Name -> stamp."""
        return dict(zip(self.names, self.files.column("stamp").to_pylist(), strict=True))

    @cached_property
    def sizes(self) -> dict[str, int | None]:
        """Name -> bytes."""
        return dict(zip(self.names, self.files.column("bytes").to_pylist(), strict=True))


def find_files(filesystem: Any, root: str, *, local: bool) -> Found:
    """Every file under `root`, sorted by name."""
    found = Found()
    rows = _walk(root, "", _above(root), 0, found) if local else _listed(filesystem, root, found)
    batch: list[FileRow] = []
    pieces = []
    for name, size, stamp in rows:
        if name != _writable(name):
            found.broken[_writable(name)] = "its name is not UTF-8: rename it, tables can only hold UTF-8"
            continue
        if name.startswith("/") or "://" in name:  # of an object: opened, it would be a file of this machine or a URL
            found.broken[name] = "its name is that of a file elsewhere: name the object otherwise"
            continue
        batch.append((name, size, stamp))
        if len(batch) == BATCH:
            pieces.append(_table(batch))
            batch.clear()
    table = pa.concat_tables([*pieces, _table(batch)])
    found.files = table.take(pc.sort_indices(table.column("name")))
    return found


def _table(rows: list[FileRow]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)] or [[], [], []], schema=FILE)


def _listed(filesystem: Any, root: str, found: Found) -> Iterator[FileRow]:
    """The files on another storage. A folder of the root is one listing, so that only some of them are objects at once."""

    def listing(folder: str) -> list[tuple[str, dict[str, Any]]]:
        return list(remote_files(filesystem, folder))

    filesystem.invalidate_cache()  # what this process has listed before may have grown
    top = asked_again(root, lambda: filesystem.ls(root, detail=True))
    folders = [str(entry["name"]) for entry in top if entry["type"] == "directory"]
    # Of keys such as "corpus//a.wav" the folder has no name: asked for, a storage lists the root, so all there is once more.
    named = [folder for folder in folders if folder.rstrip("/") != root]
    if len(named) < len(folders):
        found.passed_over["folders without a name (two slashes in a key: name its objects otherwise)"] += 1
    yield from _rows(root, ((str(entry["name"]), entry) for entry in top if entry["type"] == "file"))
    with ThreadPoolExecutor(LISTERS) as pool:
        for start in range(0, len(named), LISTERS):
            for listed in pool.map(listing, named[start : start + LISTERS]):
                yield from _rows(root, listed)


def _rows(root: str, entries: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[FileRow]:
    for path, entry in entries:
        if not is_folder_mark(str(path), root):
            size = entry["size"]  # a page of links (http) tells none: the file is asked then, and each time anew
            name = str(path)[len(root) + 1 :]
            yield (name, None, None) if size is None else (name, int(size), stamp_of(entry))


def _above(root: str) -> list[tuple[int, int]]:
    """The root and the folders above it: whoever links to one of them (a disk, `/`) would list it all, and the source in it."""
    whole = PurePosixPath(os.path.realpath(root))
    return [_identity(str(folder)) for folder in (whole, *whole.parents)]


def _walk(folder: str, prefix: str, above: list[tuple[int, int]], num_links: int, found: Found) -> Iterator[FileRow]:
    """(name, bytes, stamp) of the files of a folder of this machine; what is no file that can be read is noted in `found`."""
    try:
        entries = asked_again(folder, lambda: sorted(os.scandir(folder), key=lambda entry: entry.name))
    except OSError as error:
        if error.errno not in OF_THE_FOLDER:
            raise  # it says nothing of what lies there: left out, that would be taken for removed
        found.passed_over[f"in folders that cannot be read ({error.strerror})"] += 1
        return
    for entry in entries:
        name, inside = prefix + entry.name, None
        try:
            if entry.is_dir():
                identity, followed = _identity(entry.path), num_links + entry.is_symlink()
                if identity in above:
                    found.passed_over["links back to a folder above"] += 1
                elif prefix.count("/") >= MAX_DEPTH:
                    found.passed_over[f"folders deeper than {MAX_DEPTH}"] += 1
                elif followed > MAX_LINKS:
                    found.passed_over[f"links inside {MAX_LINKS} linked folders"] += 1
                else:
                    inside = _walk(entry.path, f"{name}/", [*above, identity], followed, found)
            elif entry.is_file():
                status = entry.stat()
                # ctime too: files of one size that were unpacked in one second may exchange their names, or be rewritten and
                # get their old time back
                yield name, status.st_size, f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
            elif entry.is_symlink():
                there = os.path.exists(entry.path)
                found.broken[_writable(name)] = (
                    f"it is a link to {_writable(os.readlink(entry.path))}, which is "
                    f"{'no file (a pipe, a socket or a device)' if there else 'not there'}"
                )
            else:
                found.broken[_writable(name)] = "it is no file that can be read (a pipe, a socket or a device)"
        except OSError as error:
            found.broken[_writable(name)] = f"it cannot be looked at: {error.strerror or error}"
        if inside is not None:  # here, where its own errors are not taken for this entry's
            yield from inside


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _writable(name: str) -> str:
    """The name, with what is not UTF-8 in it spelled out."""
    return name.encode("utf-8", "backslashreplace").decode()


def describe(counts: Counter[str]) -> str:
    """Such as "4 .webm, 2 .aiff"; at most eight kinds are named."""
    named = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(count for _, count in named[8:])
    return ", ".join([f"{count} {kind}" for kind, count in named[:8]] + ([f"{rest} others"] if rest else []))
