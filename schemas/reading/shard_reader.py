"""Shards as plain `tarfile` reads them, for whoever checks or shows them. Training reads by index: model/data/shards.py."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np
from pydantic import TypeAdapter

from schemas.config import ConfigError, in_short
from schemas.errors import DataError
from schemas.shards import SampleMeta, ShardEntry, ShardIndex
from schemas.storage.files import opened

ENTRIES = TypeAdapter(list[ShardEntry])


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


def whole_index(data: bytes, read: Callable[[str], bytes]) -> ShardIndex:
    """The index of a set, with the entries of all its parts; `read` gives a file by its path relative to the index.

    Raises:
        ValueError: it is no index, or a part is not the one that the index names. OSError: a part is missing.
    """
    index = ShardIndex.model_validate_json(data)
    shards = list(index.shards)
    for part in index.parts:
        content = read(part.path)
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise ValueError(f"its part {part.path} is damaged: the sha256 is not the one that the index states")
        shards += ENTRIES.validate_json(content)
    return index.with_updates(shards=shards, parts=[]) if index.parts else index


def load_index(path: str) -> ShardIndex:
    """The index at a path or fsspec URL, with the entries of all its parts.

    Raises:
        OSError, ValueError: as `whole_index`.
    """
    folder = path.rpartition("/")[0] or "."

    def read(relative: str) -> bytes:
        with opened(f"{folder}/{relative}") as file:
            content: bytes = file.read()
        return content

    return whole_index(read(path.rpartition("/")[2]), read)


def read_index(path: str) -> ShardIndex:
    """The index of a speech set.

    Raises:
        ConfigError: it is missing, or has no units.
        DataError: it is damaged, or cannot be read.
    """
    try:
        index = load_index(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ConfigError(f"cannot read the shard index {path}: {in_short(error)}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the shard index {path}: {in_short(error)}") from error
    if index.kind != "speech":
        raise ConfigError(f"{path} is a set of text", "name the index of speech shards")
    return index


def unit_sequences(path: str, index: ShardIndex) -> Iterator[np.ndarray]:
    """The units of each segment, in the order of the index."""
    for shard in index.shards:
        with opened(f"{path.rpartition('/')[0] or '.'}/{shard.path}") as file:
            meta = None
            with tarfile.open(fileobj=file, mode="r|") as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    if content is None:
                        continue
                    if member.name.endswith(".json"):
                        meta = SampleMeta.model_validate_json(content.read())
                    elif member.name.endswith(".units.npy"):
                        assert meta is not None
                        assert member.name == f"{meta.key}.units.npy"
                        units = np.load(io.BytesIO(content.read()), allow_pickle=False)
                        yield from (units[span.frame_start : span.frame_end] for span in meta.segments)


def patched_sequences(path: str, index: ShardIndex) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(units, bool beside them: a word or a silence ends here) of each segment, in the order of the index."""
    for shard in index.shards:
        with opened(f"{path.rpartition('/')[0] or '.'}/{shard.path}") as file:
            for sample in samples_of(file):
                if "units.npy" not in sample.members:
                    continue
                meta = SampleMeta.model_validate_json(sample.read("json"))
                units, bounds = sample.array("units.npy"), sample.array("patch.npy")
                ends = np.zeros(len(units), dtype=bool)
                ends[bounds[1:] - 1] = True
                for span in meta.segments:
                    yield units[span.frame_start : span.frame_end], ends[span.frame_start : span.frame_end]
