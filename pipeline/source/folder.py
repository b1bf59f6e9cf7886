"""A folder of recordings, local or on object storage: listing it and opening its files."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from typing import BinaryIO

import fsspec

from pipeline.containers.base import Slice
from pipeline.source.members import ParquetCells, container_of, tar_slice
from schemas.errors import StorageError
from schemas.storage.files import filesystem_of
from schemas.storage.retry import asked_again
from schemas.storage.tree import is_local

RANGE = 65_536
"""Bytes that are fetched at once where a container's headers are read: a tar has one every few hundred thousand."""

LONGEST_HOLE = 1 << 34
"""Bytes of a local file that were never written in one stretch: a day of CD sound as digital silence; it is no audio beyond."""

ENDS = 32_768
"""Bytes read at each end of a file to know it and to read its header: 64 KiB together."""

LEFT_ALONE = (
    "leave the source alone during a run; the next lists it anew (if a file is named again and again, touch it)"
)


class SourceFolder:
    """The folder that holds the audio: a path or any fsspec URL. Names inside are uris relative to it."""

    def __init__(self, uri: str) -> None:
        self.filesystem, root = filesystem_of(uri)
        self.uri = uri
        self.root = str(root).rstrip("/")
        self.is_local = is_local(self.filesystem)
        self._cells = ParquetCells()
        self._lock = threading.Lock()

    def open(self, uri: str, member: str | None = None) -> BinaryIO:
        """A seekable binary file, or the member of a container. Remote bytes are fetched whole: they are hashed, then decoded.

        A uri that is absolute (a path or a URL) was allowed by `source.roots` when the source was listed.

        Raises:
            OSError: the file cannot be opened; a StorageError where the storage did not answer for minutes.
        """
        name = container_of(uri, member)
        filesystem, path = self.filesystem, f"{self.root}/{name}"
        if name.startswith("/") or "://" in name:
            filesystem, path = filesystem_of(name)
        local = is_local(filesystem)
        if member is None:
            return open(path, "rb") if local else io.BytesIO(_fetched(filesystem, path))
        if member.startswith("tar:"):
            offset, size = tar_slice(member)
            if local and os.path.getsize(path) >= offset + size:
                return io.BufferedReader(Slice(open(path, "rb"), offset, offset + size, owns=True))
            if not local and not size:  # an empty range is none to S3, which would send the whole tar
                return io.BytesIO()
            if not local and len(content := _fetched(filesystem, path, offset, offset + size)) == size:
                return io.BytesIO(content)
            raise OSError(f"{name} has become shorter since it was listed")

        def read_cell() -> bytes:
            with self._lock, filesystem.open(path, "rb") as file:
                return self._cells.read(path, file, member)

        return io.BytesIO(read_cell() if local else asked_again(path, read_cell))

    def open_listed(self, uri: str, member: str | None = None) -> BinaryIO:
        """`open` of what a listing named.

        Raises:
            OSError: as `open`; a StorageError where the file is gone since, which says nothing of what it held.
        """
        try:
            return self.open(uri, member)
        except FileNotFoundError as error:
            raise StorageError(f"{uri} is not there any more since it was listed: {LEFT_ALONE}") from error

    def open_ends(self, uri: str, member: str | None, size: int | None) -> tuple[bytes, bytes, int]:
        """(first bytes, last bytes, size) of a file or member, by ranged reads; a small one is its first bytes, all of it.

        `size` spares a question where a listing has told it.

        Raises:
            OSError: the file cannot be opened, or most of it was never written (nothing of it is read then).
        """
        name = container_of(uri, member)
        is_plain = member is None and not (name.startswith("/") or "://" in name)
        if self.is_local or not is_plain:
            with self.open(uri, member) as file:
                size = file.seek(0, io.SEEK_END)
                if member is None and size > LONGEST_HOLE and isinstance(file, io.BufferedReader):
                    _refuse_holes(file.fileno(), size)
                return ends_of(file)
        path = f"{self.root}/{name}"
        if size is None:
            size = asked_again(path, lambda: self.filesystem.size(path))
            if size is None:  # of a server that makes the file as it sends it
                return ends_of(io.BytesIO(_fetched(self.filesystem, path)))
        if size <= 2 * ENDS:
            return (_fetched(self.filesystem, path) if size else b""), b"", size
        head = _fetched(self.filesystem, path, 0, ENDS)
        return head, _fetched(self.filesystem, path, size - ENDS, size), size

    def open_ranged(self, uri: str) -> BinaryIO:
        """A seekable binary file of which only what is read is fetched, in blocks of RANGE bytes.

        Raises:
            OSError: the file cannot be opened.
        """
        path = f"{self.root}/{uri}"
        if self.is_local:
            return open(path, "rb")
        file: BinaryIO = self.filesystem.open(path, "rb", block_size=RANGE)
        return file


def ends_of(file: BinaryIO) -> tuple[bytes, bytes, int]:
    """(first bytes, last bytes, size) of an open file; a small one is its first bytes, all of it."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(2 * ENDS if size <= 2 * ENDS else ENDS)
    file.seek(max(len(head), size - ENDS))
    return head, file.read(), size


def _refuse_holes(descriptor: int, size: int) -> None:
    """Reading a hole costs as long as reading bytes: a sparse file of a terabyte would hold a worker up for minutes.

    Raises:
        OSError: a stretch of more than LONGEST_HOLE was never written.
    """
    place = 0
    while place < size and hasattr(os, "SEEK_HOLE"):
        hole = os.lseek(descriptor, place, os.SEEK_HOLE)
        try:
            place = os.lseek(descriptor, hole, os.SEEK_DATA)
        except OSError:  # no data behind it
            place = size
        if place - hole > LONGEST_HOLE:
            never = (
                f"{(place - hole) >> 30:,} GiB of its {size >> 30:,} GiB were never written (a copy that did not end?)"
            )
            raise OSError(f"{never}: fetch it again")


def _fetched(
    filesystem: fsspec.AbstractFileSystem, path: str, start: int | None = None, end: int | None = None
) -> bytes:
    """The bytes of a remote file from `start` to `end`."""
    content: bytes = asked_again(path, lambda: filesystem.cat_file(path, start=start, end=end))
    return content


def hash_stream(file: BinaryIO) -> str:
    """The sha256 of a file from its beginning, read in pieces."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()
