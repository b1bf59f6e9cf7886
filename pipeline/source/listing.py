"""Which files lie under a source: linked folders are followed, and whatever cannot be listed is counted or named."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from schemas.storage.files import is_folder_mark, stamp_of
from schemas.storage.retry import asked_again

MAX_DEPTH = 64
"""Folders in each other; deeper ones are counted, for only a loop of mounts makes them."""
MAX_LINKS = 3
"""Linked folders on one way: where ten folders link to each other, there are 10! ways through them."""


@dataclass
class Found:
    """What a walk came upon: names relative to the root, with forward slashes."""

    names: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    """Name -> a sentence: a link that leads nowhere, a name that no table can hold, something that is no file."""
    stamps: dict[str, str] = field(default_factory=dict)
    """Name -> what changes when the file does: its size with its etag or its time of change."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Name -> bytes."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """What was not entered, by the reason: folders that cannot be read, links back to a folder above."""


def find_files(filesystem: Any, root: str, *, local: bool) -> Found:
    """Every file under `root`, sorted by name."""
    found = Found()
    if local:
        whole = os.path.realpath(root)
        # Whoever links to a folder above the source (a disk, `/`) would list it all, and the source in it.
        above = [_identity(str(folder)) for folder in (PurePosixPath(whole), *PurePosixPath(whole).parents)]
        _walk(root, "", above, 0, found)
    else:
        for path, entry in asked_again(root, lambda: filesystem.find(root, detail=True)).items():
            if not is_folder_mark(str(path), root):
                _add(found, str(path)[len(root) + 1 :], int(entry["size"] or 0), stamp_of(entry))
    found.names.sort()
    return found


def _walk(folder: str, prefix: str, above: list[tuple[int, int]], num_links: int, found: Found) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        found.passed_over[f"in folders that cannot be read ({error.strerror})"] += 1
        return
    for entry in entries:
        name = prefix + entry.name
        try:
            if entry.is_dir():
                if (identity := _identity(entry.path)) in above:
                    found.passed_over["links back to a folder above"] += 1
                elif prefix.count("/") >= MAX_DEPTH:
                    found.passed_over[f"folders deeper than {MAX_DEPTH}"] += 1
                elif (followed := num_links + entry.is_symlink()) > MAX_LINKS:
                    found.passed_over[f"links inside {MAX_LINKS} linked folders"] += 1
                else:
                    _walk(entry.path, f"{name}/", [*above, identity], followed, found)
            elif entry.is_file():
                status = entry.stat()
                _add(found, name, status.st_size, f"{status.st_size}:{status.st_mtime_ns}")
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


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _add(found: Found, name: str, size: int, stamp: str) -> None:
    if name == _writable(name):
        found.names.append(name)
        found.stamps[name] = stamp
        found.sizes[name] = size
    else:
        found.broken[_writable(name)] = "its name is not UTF-8: rename it, tables can only hold UTF-8"


def _writable(name: str) -> str:
    """The name, with what is not UTF-8 in it spelled out."""
    return name.encode("utf-8", "backslashreplace").decode()


class Names:
    """Names looked up as they are, else as they look: a Mac decomposes accents (NFD), a manifest composes them (NFC)."""

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = set(names)
        self._alike: dict[str, list[str]] = {}
        for name in sorted(self._exact):
            self._alike.setdefault(unicodedata.normalize("NFC", name), []).append(name)

    def find(self, name: str) -> str | None:
        """The one name that is meant, or None: there is none, or there are two that look like it."""
        if name in self._exact:
            return name
        alike = self._alike.get(unicodedata.normalize("NFC", name), [])
        return alike[0] if len(alike) == 1 else None


def suffix_of(name: str) -> str:
    """How a file is counted that is not listed: by its suffix in small letters."""
    return PurePosixPath(name).suffix.lower() or "without a suffix"


def describe(counts: Counter[str]) -> str:
    """Such as "4 .webm, 2 .aiff"; at most eight kinds are named."""
    named = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(count for _, count in named[8:])
    return ", ".join([f"{count} {kind}" for kind, count in named[:8]] + ([f"{rest} others"] if rest else []))
