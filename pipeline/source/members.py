"""Audio inside containers: a recording may be a stretch of a tar file, or a cell of a Parquet file. Nothing is unpacked.

`member` says where: "tar:OFFSET:SIZE" in bytes, or "parquet:ROW GROUP:ROW OF IT:COLUMN". The uri names the member for people,
such as "shard-000.tar#utt1.flac"; nothing is ever opened by that name.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any, BinaryIO

TAR = re.compile(r".*?\.tar(?=#)", re.IGNORECASE | re.DOTALL)
"""A tar's name at the beginning of a member's uri: either name may have a # in it."""


def container_of(uri: str, member: str | None) -> str:
    """The file that a recording lies in: the recording's uri, without the name of the member."""
    if member is None:
        return uri
    if not member.startswith("tar:"):
        return uri.rpartition("#")[0]  # a row's number follows it
    named = TAR.match(uri)
    return named[0] if named else uri.partition("#")[0]


def tar_slice(member: str) -> tuple[int, int]:
    """(offset, size) of a `member` in a tar file."""
    _, offset, size = member.split(":")
    return int(offset), int(size)


KEEP_BYTES = 1 << 28
"""Row groups that are kept: a partition of half an hour has a few, and its recordings come in the order of their hashes."""


class ParquetCells:
    """Audio bytes out of Parquet files. Keeps the row groups that were used last, up to KEEP_BYTES."""

    def __init__(self) -> None:
        self._columns: OrderedDict[tuple[str, str, str], Any] = OrderedDict()

    def read(self, path: str, file: BinaryIO, member: str) -> bytes:
        """The bytes of one cell: the column is of binary, or of Hugging Face's {bytes, path}.

        Raises:
            OSError: there is no such cell any more, or it holds no bytes.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        _, group, row, column = member.split(":", 3)
        key = (path, group, column)
        try:
            if key not in self._columns:
                self._columns[key] = pq.ParquetFile(file).read_row_group(int(group), columns=[column])[column]
            self._columns.move_to_end(key)
            while len(self._columns) > 1 and sum(item.nbytes for item in self._columns.values()) > KEEP_BYTES:
                self._columns.popitem(last=False)
            value = self._columns[key][int(row)].as_py()
        except (pa.ArrowException, KeyError, IndexError) as error:
            raise OSError(f"row {row} of row group {group} cannot be read: {error}") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise OSError(f"row {row} of row group {group} holds no audio bytes")
        return content
