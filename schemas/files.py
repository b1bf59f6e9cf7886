"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix, to be written to; it becomes `path` when the body ends well.

    Nobody ever sees half a file, whoever is killed when. `durable`: on disk before the name is, for what a promise stands on.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:12]}.part{target.suffix}")
    try:
        yield partial
        if durable:
            sync(partial)
        os.replace(partial, target)
        if durable:
            sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: str | Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
