"""Decoded audio that the worker processes of a node share: each recording is fetched and decoded once, whatever pool comes first.

    FOLDER/<recording id>.<channel>.npy     float32 [samples] at 16 kHz, read by memory map

Files are written whole and renamed into place. When the folder holds more than it may, what was used longest ago goes first; a
process that still has it mapped keeps it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

PREFIX = "lst-audio-"
MOST_BYTES = 4 << 30
"""18 hours of audio at 16 kHz."""
MOST_SHARE = 0.1
"""Of what is free on the disk."""
OLD_SECONDS = 86_400.0
"""A run's folder that nobody has touched for so long is of a run that is over."""


class NodeCache:
    """The folder of one run on this node."""

    def __init__(self, run_id: str, root: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        root = Path(tempfile.gettempdir()) if root is None else root
        _remove_old(root)
        self._folder = root / f"{PREFIX}{run_id}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._most_bytes = min(most_bytes, int(shutil.disk_usage(root).free * MOST_SHARE))

    def get(self, recording_id: str, channel: int) -> np.ndarray | None:
        """The samples, mapped; None where they are not there."""
        path = self._path(recording_id, channel)
        try:
            samples: np.ndarray = np.load(path, mmap_mode="r")
            os.utime(path)
        except (OSError, ValueError, EOFError):  # the last of an empty file, which a machine that went down leaves
            return None
        return samples

    def put(self, recording_id: str, channel: int, samples: np.ndarray) -> None:
        """Keep samples if there is room for them; a disk that fails costs only the keeping."""
        if samples.nbytes > self._most_bytes:
            return
        path = self._path(recording_id, channel)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._make_room(samples.nbytes)
            with open(beside, "wb") as file:
                np.save(file, samples)
            os.replace(beside, path)
        except OSError:
            beside.unlink(missing_ok=True)

    def _path(self, recording_id: str, channel: int) -> Path:
        return self._folder / f"{recording_id}.{channel}.npy"

    def _make_room(self, size: int) -> None:
        files = []
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):  # gone already
                facts = path.stat()
                files.append((facts.st_mtime, facts.st_size, path))
        held = sum(length for _, length, _ in files)
        for _, length, path in sorted(files):
            if held + size <= self._most_bytes:
                return
            path.unlink(missing_ok=True)
            held -= length


def _remove_old(root: Path) -> None:
    for folder in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > OLD_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
