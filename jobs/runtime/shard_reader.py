"""Shards as plain `tarfile` reads them, for whoever checks or shows them. Training reads by index: model/shards.py."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import IO

import numpy as np


class ShardSample:
    """The members of one sample, read on demand: audio stays on disk unless it is asked for."""

    def __init__(self, tar: tarfile.TarFile):
        self._tar = tar
        self.members: dict[str, tarfile.TarInfo] = {}

    def read(self, name: str) -> bytes:
        """A member's bytes."""
        file = self._tar.extractfile(self.members[name])
        assert file is not None
        return file.read()

    def array(self, name: str) -> np.ndarray:
        """A .npy member."""
        array: np.ndarray = np.load(io.BytesIO(self.read(name)), allow_pickle=False)
        return array


def samples_of(file: IO[bytes]) -> Iterator[ShardSample]:
    """The samples of an open shard in order; each is to be read before the next is asked for."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        sample, current = ShardSample(tar), None
        for member in tar:
            key, _, name = member.name.partition(".")
            if key != current and current is not None:
                yield sample
                sample = ShardSample(tar)
            current = key
            sample.members[name] = member
        if sample.members:
            yield sample
