"""Where checkpoints stand: in a folder that all ranks see, or at a URL. What is listed as a checkpoint is complete in both.

    checkpoints/step-00000100/        shard-*.safetensors   weights and optimiser state, each rank its part
                                      checkpoint.json       configuration, data fingerprint, versions, loader, counts, CRCs
    checkpoints/latest                the name of the one to go on from

In a folder a checkpoint is written under another name and renamed once everything is on disk. An object store has no rename: each
rank writes its part to its own machine and sends it, and `checkpoint.json` comes last; without it there is no checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from model.training.storage.place import CHECKPOINTS, RunPlace
from schemas.errors import DataError
from schemas.files import sync
from schemas.storage.cache import locked
from schemas.storage.retry import asked_again

FACTS = "checkpoint.json"
NAME = re.compile(r"step-(\d{8})")
Seals = dict[str, list[int]]
"""Name of a file -> its bytes and CRC-32."""


class CheckpointError(DataError):
    """A checkpoint could not be written or read; the message names the file."""


class Checkpoints(Protocol):
    """Where the checkpoints of a run are kept. One that is listed is complete."""

    def names(self) -> list[str]:
        """Of the complete ones, oldest first."""
        ...

    def latest(self) -> str | None:
        """The one to go on from: the one that `latest` names; where there is none, the newest."""
        ...

    def fetch(self, name: str) -> Path:
        """A folder of this machine with the files of a checkpoint.

        Raises:
            CheckpointError: they are not all there.
            StorageError: the storage did not answer.
        """
        ...

    def release(self, path: Path) -> None:
        """The folder that `fetch` gave is no longer needed."""
        ...

    def begin(self, name: str, rank: int) -> Path:
        """Called by every rank before anything is written: where this rank writes its files."""
        ...

    def keep(self, name: str, partial: Path, rank: int) -> Seals:
        """Called by every rank once all have written: what this rank has to say of the files."""
        ...

    def publish(self, name: str, partial: Path, facts: dict[str, Any]) -> None:
        """Main rank only, once all have kept theirs: the checkpoint is complete from now on, and the latest."""
        ...

    def discard(self, name: str, partial: Path, rank: int) -> None:
        """Called by every rank after a failure: nothing half-written stays."""
        ...

    def remove(self, names: Sequence[str]) -> None:
        """Main rank only: remove checkpoints, and what killed writers left behind."""
        ...


def candidates(store: Checkpoints) -> list[str]:
    """What a run may go on from: the latest, then the ones before it, newest first; at last those after it, which a stop kept
    from being named the latest, or a user left behind."""
    newest = store.latest()
    names = [] if newest is None else list(reversed(store.names()))
    return [name for name in names if name <= str(newest)] + [name for name in names if name > str(newest)]


def seal(file: Path) -> list[int]:
    """Bytes and CRC-32 of a file: what tells a damaged one (safetensors checks its header alone)."""
    size = crc = 0
    with file.open("rb") as stream:
        while block := stream.read(2**24):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]


def checkpoints_of(place: RunPlace) -> Checkpoints:
    """The checkpoints of the run that lies there."""
    return LocalCheckpoints(place.folder / CHECKPOINTS) if place.url is None else RemoteCheckpoints(place)


class LocalCheckpoints:
    """In a folder that every rank sees under the same name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def names(self) -> list[str]:
        """See `Checkpoints`, as for all others.

        Raises:
            OSError: the folder is there and cannot be listed. (`Path.glob` would find nothing in it, and the run begin anew.)
        """
        try:
            there = asked_again(str(self.folder), lambda: os.listdir(self.folder))
        except FileNotFoundError:
            return []
        return sorted(filter(NAME.fullmatch, there))

    def latest(self) -> str | None:
        """See `Checkpoints`."""
        try:
            named = (self.folder / "latest").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            named = ""
        return _latest(self.names(), named)

    def fetch(self, name: str) -> Path:
        """See `Checkpoints`."""
        return self.folder / name

    def release(self, path: Path) -> None:
        """See `Checkpoints`."""

    def begin(self, name: str, rank: int) -> Path:
        """See `Checkpoints`."""
        partial = self.folder / name.replace("step", ".partial")
        if rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        return partial

    def keep(self, name: str, partial: Path, rank: int) -> Seals:
        """See `Checkpoints`."""
        return {file.name: seal(file) for file in partial.iterdir()} if rank == 0 else {}

    def publish(self, name: str, partial: Path, facts: dict[str, Any]) -> None:
        """See `Checkpoints`."""
        (partial / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        for file in partial.iterdir():
            sync(file)
        sync(partial)
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        pointer = self.folder / ".latest.part"
        pointer.write_text(name + "\n", encoding="utf-8")
        sync(pointer)
        os.replace(pointer, self.folder / "latest")
        sync(self.folder)

    def discard(self, name: str, partial: Path, rank: int) -> None:
        """See `Checkpoints`."""
        if rank == 0:
            shutil.rmtree(partial, ignore_errors=True)

    def remove(self, names: Sequence[str]) -> None:
        """See `Checkpoints`."""
        for path in [*(self.folder / name for name in names), *self.folder.glob(".partial-*")]:
            shutil.rmtree(path, ignore_errors=True)


class RemoteCheckpoints:
    """At the URL of a run. The run's other files are sent before a checkpoint is published: they reach as far as it does."""

    def __init__(self, place: RunPlace) -> None:
        self.place, self.files = place, place.files
        self._spool = place.folder / CHECKPOINTS

    def __str__(self) -> str:
        return f"{self.place.url}/{CHECKPOINTS}"

    def names(self) -> list[str]:
        """See `Checkpoints`."""
        return sorted(name for name, files in self._listed().items() if FACTS in files)

    def latest(self) -> str | None:
        """See `Checkpoints`."""
        try:
            named = self.files.read_bytes(f"{CHECKPOINTS}/latest").decode("utf-8", "replace").strip()
        except FileNotFoundError:
            named = ""
        return _latest(self.names(), named)

    def fetch(self, name: str) -> Path:
        """See `Checkpoints`. Ranks of a machine may all call it: one copies."""
        target = self._spool / name
        with locked(self._spool / f".{name}.lock"):
            try:
                self.files.get_file(f"{CHECKPOINTS}/{name}/{FACTS}", target / FACTS)
                facts = json.loads((target / FACTS).read_text(encoding="utf-8"))
                unsealed = dict.fromkeys(self._listed().get(name, ()))  # of older code, which sealed nothing
                for file, wanted in facts.get("files", unsealed).items():
                    if not (target / file).is_file() or seal(target / file) != wanted:
                        self.files.get_file(f"{CHECKPOINTS}/{name}/{file}", target / file)
            except (FileNotFoundError, ValueError, AttributeError) as error:
                raise CheckpointError(f"the checkpoint {self}/{name} is damaged: {error}") from error
        return target

    def release(self, path: Path) -> None:
        """See `Checkpoints`."""
        shutil.rmtree(path, ignore_errors=True)

    def begin(self, name: str, rank: int) -> Path:
        """See `Checkpoints`."""
        for left in self._spool.glob(f".partial-*-{rank}"):
            shutil.rmtree(left, ignore_errors=True)
        partial = self._spool / f"{name.replace('step', '.partial')}-{rank}"
        partial.mkdir(parents=True)
        if rank == 0:
            self._remove(name, self._listed().get(name, []))
        return partial

    def keep(self, name: str, partial: Path, rank: int) -> Seals:
        """See `Checkpoints`."""
        seals = {}
        for file in sorted(partial.iterdir()):
            seals[file.name] = seal(file)
            self.files.put_file(file, f"{CHECKPOINTS}/{name}/{file.name}")
        shutil.rmtree(partial)
        return seals

    def publish(self, name: str, partial: Path, facts: dict[str, Any]) -> None:
        """See `Checkpoints`."""
        self.place.push()
        self.files.write_bytes(f"{CHECKPOINTS}/{name}/{FACTS}", json.dumps(facts, indent=1).encode())
        self.files.write_bytes(f"{CHECKPOINTS}/latest", f"{name}\n".encode())

    def discard(self, name: str, partial: Path, rank: int) -> None:
        """See `Checkpoints`. What has been sent lacks its checkpoint.json, and is removed with the next."""
        shutil.rmtree(partial, ignore_errors=True)

    def remove(self, names: Sequence[str]) -> None:
        """See `Checkpoints`."""
        for name, files in self._listed().items():
            if name in names or FACTS not in files:
                self._remove(name, files)

    def _remove(self, name: str, files: Sequence[str]) -> None:
        """Remove the files of a checkpoint, first the one that makes it one."""
        folder = f"{CHECKPOINTS}/{name}"
        if FACTS in files:
            self.files.remove(f"{folder}/{FACTS}")
        if rest := [f"{folder}/{file}" for file in files if file != FACTS]:
            self.files.remove_all(rest)

    def _listed(self) -> dict[str, list[str]]:
        """Name of each checkpoint -> its files, complete or not."""
        listed: dict[str, list[str]] = {}
        for path in self.files.stamps(CHECKPOINTS):
            name, _, file = path.partition("/")
            if NAME.fullmatch(name) and file:
                listed.setdefault(name, []).append(file)
        return listed


def _latest(names: list[str], named: str) -> str | None:
    return named if named in names else (names[-1] if names else None)
