"""The folder of this machine where copies of what lies elsewhere are kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_of(kind: str, url: str) -> Path:
    """The folder that stands for a URL, under LST_CACHE (default: ~/.cache/lst); `kind` keeps uses apart."""
    root = Path(os.environ.get("LST_CACHE") or Path.home() / ".cache" / "lst")
    return root / kind / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`: of the processes of a machine one is in the body, and the others wait. A killed one lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
