"""Reading shards by their index: local paths or any fsspec URL, hashes checked on first read, samples by number."""

from __future__ import annotations

import hashlib
import io
import mmap
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from schemas.cards import fingerprint
from schemas.config import in_short
from schemas.errors import DataError, ExitCode, StorageError
from schemas.reading.shard_reader import whole_index
from schemas.shards import SHARD_FORMAT, SampleMeta, ShardEntry, ShardIndex, on_the_grid
from schemas.storage.copies import Copies, Remote
from schemas.storage.files import opened
from schemas.storage.retry import asked_again


class ShardError(DataError):
    """A shard or an index that cannot be trusted; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One passage, as schemas/shards.py describes it. The arrays are empty in a text-only sample."""

    meta: SampleMeta
    units: np.ndarray
    """uint16 [T]"""
    words: np.ndarray
    """int32 [W, 3]"""
    patch: np.ndarray
    """int32 [P + 1]"""
    chars: np.ndarray | None
    """int32 [C], where the shard has character times."""
    scores: np.ndarray | None = None
    """float16 [W], where the shard has the aligner's scores."""
    tokens: np.ndarray | None = None
    """Text tokens [N] (unsigned), where a text shard has them: of the tokenizer whose card the index lists."""


class ShardCache:
    """Copies of remote shards on this machine, at most `max_bytes` of them; the least recently opened go first."""

    def __init__(self, directory: str | Path, max_bytes: int) -> None:
        self.directory, self._copies = Path(directory), Copies(directory, max_bytes)

    def fetch(self, url: str, entry: ShardEntry) -> Path:
        """The local copy of `url`, fetched where it is not here yet.

        Raises:
            ShardError: the source cannot be read; with TRY_AGAIN, if it did not answer for minutes.
        """
        with _readable(f"fetch the shard {url} into {self.directory}"):
            return self._copies.fetch(_remote(url, entry))

    def ahead(self, wanted: Sequence[tuple[str, ShardEntry]]) -> None:
        """Begin to fetch shards that will be wanted."""
        self._copies.ahead(_remote(url, entry) for url, entry in wanted)


def _remote(url: str, entry: ShardEntry) -> Remote:
    def check(path: Path) -> None:
        check_file(path, entry, named=url)

    return Remote(url=url, name=f"{entry.sha256}.tar", bytes=entry.bytes, check=check)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Errors of storage as ours: what is away for a while ends a command that is to be run again."""
    try:
        yield
    except StorageError as error:
        raise ShardError(
            f"cannot {what}: {error}", "run the same command again to go on", code=ExitCode.TRY_AGAIN
        ) from error
    except OSError as error:
        raise ShardError(f"cannot {what}: {error}") from error


def check_file(path: Path, entry: ShardEntry, named: str) -> None:
    """Compare a shard file with its entry in the index.

    Raises:
        ShardError: it is truncated, too long, or its bytes have changed.
    """
    size = path.stat().st_size
    if size != entry.bytes:
        what = "truncated" if size < entry.bytes else "not the file that was indexed"
        raise ShardError(f"the shard {named} has {size} bytes and its index says {entry.bytes}: it is {what}")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != entry.sha256:
        raise ShardError(
            f"the shard {named} is damaged: its sha256 is {digest[:12]}..., its index says {entry.sha256[:12]}...; "
            "write or copy it again"
        )


class ShardSet:
    """Random access to the samples of an index. Keeps the last `keep_open` shards mapped."""

    def __init__(self, index_url: str, cache: ShardCache | None = None, keep_open: int = 16) -> None:
        """
        Raises:
            ShardError: the index is missing or is not an index; a URL was given without a cache.
        """
        self.index_url, self.cache, self.keep_open = index_url, cache, keep_open
        self.index = read_index(index_url)
        self.fingerprint = fingerprint([entry.sha256 for entry in self.index.shards])
        """Of the shards' bytes, in order. The index's own fingerprint says how they were made, not from what audio."""
        self.counts = [entry.samples for entry in self.index.shards]
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._verified: set[str] = set()

    def read(self, shard: int, sample: int) -> Sample:
        """Sample number `sample` of shard number `shard`.

        Raises:
            ShardError: the shard is missing, truncated or damaged, or the sample is not as schemas/shards.py has it.
        """
        opened = self._open.get(shard)
        if opened is None:
            opened = self._open[shard] = self._open_shard(self.index.shards[shard])
            while len(self._open) > self.keep_open:
                self._open.popitem(last=False)[1].close()
        else:
            self._open.move_to_end(shard)
        return opened.read(sample)

    def audio(self, shard: int, sample: int) -> np.ndarray | None:
        """The audio of a sample as its units see it, float32 [num_frames * hop] at 16 kHz; None where the shards carry none.

        Raises:
            ShardError: as `read`, or the audio does not fit the units.
        """
        meta, data = self.read(shard, sample).meta, self.member(shard, sample, "flac")
        if data is None:
            return None
        import soundfile

        try:
            samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
        except soundfile.SoundFileError as error:
            raise ShardError(f"the audio of sample {meta.key!r} cannot be read: {error}") from error
        audio = on_the_grid(meta, samples)
        if rate != self.index.sample_rate or audio.shape != (meta.num_frames * meta.hop,):
            raise ShardError(f"the audio of sample {meta.key!r} does not fit its {meta.num_frames} units")
        return audio

    def member(self, shard: int, sample: int, suffix: str) -> bytes | None:
        """The bytes of an optional member of a sample, such as "flac"; None where it has none.

        Raises:
            ShardError: as `read`.
        """
        self.read(shard, sample)
        return self._open[shard].member(sample, suffix)

    def ahead(self, shards: Sequence[int]) -> None:
        """Begin to fetch shards that will be read; those on this machine already need nothing."""
        wanted = [(self._url(entry), entry) for entry in (self.index.shards[shard] for shard in shards)]
        if self.cache is not None and wanted and _local_path(wanted[0][0]) is None:
            self.cache.ahead(wanted)

    def close(self) -> None:
        """Unmap everything; reading afterwards opens again."""
        while self._open:
            self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # maps stay in the process that made them

    def _open_shard(self, entry: ShardEntry) -> _OpenShard:
        url = self._url(entry)
        local = _local_path(url)
        if local is None:
            if self.cache is None:
                raise ShardError(f"{url} is remote: set data.cache_dir to a local directory for copies of shards")
            local = self.cache.fetch(url, entry)
        with _readable(f"read the shard {local}"):
            return asked_again(
                str(local), lambda: self._map(local, entry)
            )  # a shared file system fails for a while, too

    def _map(self, local: Path, entry: ShardEntry) -> _OpenShard:
        if not local.is_file():
            raise ShardError(f"the shard {local} is missing, and the index {self.index_url} lists it")
        if entry.sha256 not in self._verified:
            check_file(local, entry, named=str(local))
            self._verified.add(entry.sha256)
        return _OpenShard(local, entry.samples)

    def _url(self, entry: ShardEntry) -> str:
        return self.index_url.rsplit("/", 1)[0] + "/" + entry.path if "/" in self.index_url else entry.path


class _OpenShard:
    """A mapped tar file and where each sample's members lie in it."""

    def __init__(self, path: Path, samples: int) -> None:
        self.path = path
        with open(path, "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.members = _scan(path, file)
        if len(self.members) != samples:
            raise ShardError(f"the shard {path} holds {len(self.members)} samples and its index says {samples}")

    def read(self, number: int) -> Sample:
        key, spans = self.members[number]
        try:
            meta = SampleMeta.model_validate_json(self._bytes(spans["json"]))
            if meta.format != SHARD_FORMAT:
                raise ValueError(f"format {meta.format}, this code reads {SHARD_FORMAT}")
            sample = Sample(
                meta=meta,
                units=self._array(spans, "units.npy", np.uint16, (0,)),
                words=self._array(spans, "words.npy", np.int32, (0, 3)),
                patch=self._array(spans, "patch.npy", np.int32, (0,)),
                chars=self._array(spans, "chars.npy", np.int32, (0,)) if "chars.npy" in spans else None,
                scores=self._array(spans, "scores.npy", np.float16, (0,)) if "scores.npy" in spans else None,
                tokens=self._tokens(spans),
            )
            _check_sample(sample)
        except (KeyError, ValueError, ValidationError) as error:
            raise ShardError(f"sample {key!r} of the shard {self.path} cannot be used: {error}") from error
        return sample

    def member(self, number: int, suffix: str) -> bytes | None:
        """The bytes of an optional member."""
        spans = self.members[number][1]
        return self._bytes(spans[suffix]) if suffix in spans else None

    def close(self) -> None:
        self.map.close()

    def _bytes(self, span: tuple[int, int]) -> bytes:
        return self.map[span[0] : span[0] + span[1]]

    def _array(self, spans: dict[str, tuple[int, int]], name: str, dtype: type, empty: tuple[int, ...]) -> np.ndarray:
        if name not in spans:
            return np.zeros(empty, dtype=dtype)
        array = np.lib.format.read_array(io.BytesIO(self._bytes(spans[name])), allow_pickle=False)
        if array.dtype != dtype:
            raise ValueError(f"{name} is {array.dtype}, expected {np.dtype(dtype)}")
        return array

    def _tokens(self, spans: dict[str, tuple[int, int]]) -> np.ndarray | None:
        if "tokens.npy" not in spans:
            return None
        array = np.lib.format.read_array(io.BytesIO(self._bytes(spans["tokens.npy"])), allow_pickle=False)
        if array.dtype not in (np.uint16, np.uint32) or array.ndim != 1:
            raise ValueError(f"tokens.npy is {array.dtype} {list(array.shape)}, expected uint16 or uint32 [N]")
        return array


def _scan(path: Path, file: io.BufferedReader) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """Each sample's key and, per member suffix, (offset, size) of its bytes: the headers are read, not the contents."""
    samples: list[tuple[str, dict[str, tuple[int, int]]]] = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                base, _, suffix = name.partition(".")
                key = f"{folder}/{base}" if folder else base
                if not samples or samples[-1][0] != key:
                    samples.append((key, {}))
                samples[-1][1][suffix] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ShardError(f"the shard {path} is not a readable tar file: {error}") from error
    return samples


def _check_sample(sample: Sample) -> None:
    """What the loader relies on; a shard that our writer made never fails here."""
    meta, frames = sample.meta, sample.meta.num_frames
    if len(sample.units) != frames:
        raise ValueError(f"{len(sample.units)} units, num_frames says {frames}")
    if len(sample.units) and len(meta.words) != len(sample.words):
        raise ValueError(f"{len(meta.words)} word spans in the text, {len(sample.words)} rows of words.npy")
    if sample.scores is not None and len(sample.scores) != len(sample.words):
        raise ValueError(f"{len(sample.words)} words, {len(sample.scores)} rows of scores.npy")
    if len(sample.units):
        bounds = sample.patch
        if (
            len(bounds) != len(meta.patch_kind) + 1
            or bounds[0] != 0
            or bounds[-1] != frames
            or (np.diff(bounds) < 1).any()
        ):
            raise ValueError("patch bounds do not tile the frames")
    if len(sample.words) and ((np.diff(sample.words[:, :2].reshape(-1)) < 0).any() or sample.words[-1, 1] > frames):
        raise ValueError("words overlap or are out of order")


def read_index(url: str) -> ShardIndex:
    """The index at a local path or fsspec URL.

    Raises:
        ShardError: it is missing, or is not an index of a format that this code reads.
    """

    def read(relative: str) -> bytes:
        path = f"{url.rpartition('/')[0] or '.'}/{relative}"

        def ask() -> bytes:
            with opened(path) as file:
                content: bytes = file.read()
                return content

        return asked_again(path, ask)

    try:
        index = whole_index(read(url.rpartition("/")[2]), read)
    except StorageError as error:
        raise ShardError(f"cannot read the shard index: {error}", code=ExitCode.TRY_AGAIN) from error
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        hint = " (has `lst tokenize` finished? the index is written last)" if missing else ""
        if not url.endswith(".json"):
            hint = "; name the index of a shard set, such as runs/demo/shards/index.json"
        wrong = missing or isinstance(error, NotADirectoryError | IsADirectoryError)
        code = ExitCode.CONFIGURATION if wrong else None
        raise ShardError(f"cannot read the shard index {url}: {in_short(error)}{hint}", code=code) from error
    if index.format != SHARD_FORMAT:
        raise ShardError(f"the shard index {url} has format {index.format}; this code reads {SHARD_FORMAT}")
    return index


def _local_path(url: str) -> Path | None:
    """The path of a local file, None for anything else."""
    if "://" not in url:
        return Path(url)
    return Path(url.removeprefix("file://")) if url.startswith("file://") else None
