"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix, to be written to; it becomes `path` when the body ends well.

    Nobody ever sees half a file, whoever is killed when. `durable`: on disk before the name is, for what a promise stands on.
    A stream (/dev/null, /dev/stdout, a pipe) is written to when the body ends, for a rename would put a file in its place.
    """
    target = Path(path)
    if _is_stream(target):
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder) / f"written{target.suffix}"
            yield partial
            with partial.open("rb") as written, target.open("ab") as stream:
                shutil.copyfileobj(written, stream)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    begin = target.stem[:32]  # a file system takes names of 255 bytes
    partial = target.with_name(f".{begin}.{uuid.uuid4().hex[:12]}.part{target.suffix}")
    try:
        yield partial
        if durable:
            sync(partial)
        os.replace(partial, target)
        if durable:
            sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _is_stream(path: Path) -> bool:
    """Whether it is a device, a pipe, or what this process has open, which may be a file that others write to as well."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    opened = str(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return opened or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def sync(path: str | Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
