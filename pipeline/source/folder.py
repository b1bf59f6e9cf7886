"""A folder of recordings, local or on object storage: listing it and opening its files."""

from __future__ import annotations

import hashlib
import io
from typing import BinaryIO

import fsspec


class SourceFolder:
    """The folder that holds the audio: a path or any fsspec URL. Names inside are uris relative to it."""

    def __init__(self, uri: str) -> None:
        self.filesystem, root = fsspec.core.url_to_fs(uri)
        self.uri = uri
        self.root = str(root).rstrip("/")

    def open(self, uri: str) -> BinaryIO:
        """A seekable binary file. A remote file is fetched whole, for it is read twice: to hash it and to decode it.

        Raises:
            OSError: the file cannot be opened.
        """
        path = f"{self.root}/{uri}"
        if "file" in _protocols(self.filesystem):
            return open(path, "rb")
        return io.BytesIO(self.filesystem.cat_file(path))


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (filesystem.protocol,) if isinstance(filesystem.protocol, str) else tuple(filesystem.protocol)


def hash_stream(file: BinaryIO) -> str:
    """The sha256 of a file from its beginning, read in pieces."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()
