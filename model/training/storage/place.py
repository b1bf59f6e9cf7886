"""Where a run lies: a folder of this machine, or a URL. For a URL a folder here stands, filled from it and copied to it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from schemas.files import whole_file
from schemas.storage.cache import cache_of, locked
from schemas.storage.files import Files
from schemas.storage.urls import check_bucket

CHECKPOINTS = "checkpoints"
RAY = "ray-train"
"""Where Ray Train keeps its own state, which changes under a run's feet: see jobs/train_lst.py."""
STAMPS = ".stamps.json"
LOCK = ".training"
"""Locked by the process that trains in the folder; holds its name for others. The kernel unlocks it however the process ends."""
GROWING = ("metrics.jsonl", "config.yaml")
"""What a run writes at its top while it goes on."""


class RunPlace:
    """The place of a run. Whatever is not a checkpoint is written to `folder` as if there were nothing else."""

    def __init__(self, output_dir: str) -> None:
        """Raises ConfigError where it is a URL without a bucket."""
        check_bucket(output_dir)
        output_dir = output_dir.removeprefix("file://")
        self.url = output_dir.rstrip("/") if "://" in output_dir else None
        self.folder = Path(output_dir) if self.url is None else cache_of("training", self.url)
        self._sent: dict[str, tuple[int, int]] = {}

    def __str__(self) -> str:
        return self.url or str(self.folder)

    @contextmanager
    def taken(self) -> Iterator[str]:
        """Hold the folder against other trainings of this file system while the body lasts; main rank only. Yields who holds it
        already ("process 12 on node3"), or nothing where it is ours. A file system without locks holds against nobody.

        The lock is POSIX's, which children do not inherit: a loader that outlives a killed run keeps nobody out.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / LOCK, "a+", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    file.seek(0)
                    yield file.read().strip() or "another process"
                    return
            else:
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
            yield ""

    @cached_property
    def files(self) -> Files:
        """Access to the URL, opened when it is first needed."""
        assert self.url is not None
        return Files(self.url)

    def fetch(self, *, parts_only: bool = False) -> None:
        """Make the folder what the URL has, checkpoints left out. With `parts_only` take over only what no run changes, such as
        its tokenizer: for ranks whose main rank may be writing into the same folder.

        Raises:
            StorageError, CredentialsError: see `schemas.storage.retry`.
        """
        if self.url is None:
            return
        with locked(self.folder / ".lock"):
            try:
                known = json.loads((self.folder / STAMPS).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                known = {}
            there = {
                name: stamp
                for name, stamp in self.files.stamps().items()
                if not name.startswith((f"{CHECKPOINTS}/", f"{RAY}/"))
            }
            if parts_only:
                there = {name: stamp for name, stamp in there.items() if "/" not in name and name not in GROWING}
            for name, path in self._here().items():
                if name not in there and not parts_only:
                    path.unlink(missing_ok=True)
            for name, stamp in there.items():
                path = self.folder / name
                if not path.is_file() or known.get(name) != [stamp, *_state(path)]:
                    self.files.get_file(name, path)
                known[name] = [stamp, *_state(path)]
            with whole_file(self.folder / STAMPS) as partial:
                partial.write_text(json.dumps(known), encoding="utf-8")

    def push(self) -> None:
        """Copy to the URL what has changed in the folder since the last time. Main rank only.

        Raises:
            StorageError, CredentialsError: see `schemas.storage.retry`.
        """
        if self.url is None:
            return
        for name, path in self._here().items():
            state = _state(path)  # before it is read: what is appended meanwhile goes the next time
            if self._sent.get(name) != state:
                self.files.put_file(path, name)
                self._sent[name] = state

    def _here(self) -> dict[str, Path]:
        """Every file of the folder that belongs to the run, checkpoints left out."""
        found = {}
        for path in self.folder.rglob("*"):
            parts = path.relative_to(self.folder).parts
            if (
                path.is_file()
                and parts[0] not in (CHECKPOINTS, RAY)
                and not any(part.startswith(".") for part in parts)
            ):
                found["/".join(parts)] = path
        return found


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
