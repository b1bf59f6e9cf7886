"""Copies of remote files on this machine: each is fetched once by whichever process is first, or ahead of being wanted."""

from __future__ import annotations

import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from schemas.storage.cache import locked
from schemas.storage.retry import asked_again

BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A remote file whose content never changes."""

    url: str
    name: str
    """Of its copy: by its content."""
    bytes: int
    check: Callable[[Path], None]
    """Raises what its reader should see where a copy is not what it should be."""


class Copies:
    """At most `max_bytes` of copies in a folder; the least recently opened go first.

    Processes may share it: a copy appears by rename, and removing one that another process has mapped is harmless.
    """

    def __init__(self, directory: str | Path, max_bytes: int) -> None:
        self.directory, self.max_bytes = Path(directory), max_bytes
        self._waiting: queue.SimpleQueue[Remote] | None = None
        self._pid = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_waiting": None, "_pid": 0}  # a thread stays in the process that started it

    def fetch(self, remote: Remote) -> Path:
        """The copy, made where it is not here yet.

        Raises:
            OSError: the file cannot be read; a StorageError where the storage did not answer for minutes.
        """
        target = self.directory / remote.name
        with suppress(FileNotFoundError):  # not here; or another process has just made room
            os.utime(target)
            return target
        with locked(target.with_suffix(".lock")):  # of the readers of a node one fetches, and the others find it here
            if not target.exists():
                self._copy(remote, target)
        return target

    def ahead(self, remotes: Iterable[Remote]) -> None:
        """Begin to fetch what will be wanted, in a thread. Nothing is said of what fails: whoever wants it will see.

        Only what fits in `max_bytes` together, so that it does not push out what is in use.
        """
        remotes = list(remotes)
        if sum(remote.bytes for remote in remotes) > self.max_bytes:
            return
        if self._waiting is None or self._pid != os.getpid():  # a fork has its parent's queue and not its thread
            self._waiting, self._pid = queue.SimpleQueue(), os.getpid()
            threading.Thread(target=self._work, args=(self._waiting,), name="copies", daemon=True).start()
        for remote in remotes:
            self._waiting.put(remote)

    def _work(self, waiting: queue.SimpleQueue[Remote]) -> None:
        while True:
            try:
                self.fetch(waiting.get())
            except Exception:
                continue

    def _copy(self, remote: Remote, target: Path) -> None:
        self._make_room(remote.bytes)
        partial = target.with_suffix(f".{uuid.uuid4().hex}.part")

        def read() -> None:
            with fsspec.open(remote.url, "rb") as source, open(partial, "wb") as copy:
                while block := source.read(BLOCK):
                    copy.write(block)

        try:
            asked_again(remote.url, read)
            remote.check(partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, incoming: int) -> None:
        ages = []
        for path in self.directory.glob("*"):
            if path.suffix in (".lock", ".part"):
                continue
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process was faster
                continue
            ages.append((stat.st_mtime_ns, stat.st_size, path))
        held = sum(size for _, size, _ in ages)
        for _, size, path in sorted(ages):
            if held + incoming <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            held -= size
