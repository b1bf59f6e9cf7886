"""What an earlier listing found out about files, so that only new and changed ones are looked into."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.containers.layout import is_cut_short
from pipeline.source.decode import header_seconds
from pipeline.source.folder import SourceFolder, hash_stream
from pipeline.source.partitions import is_sorted
from schemas.arrow import arrow_schema, to_table
from schemas.tables import InventoryItem

SNAPSHOT = pa.schema(
    [*arrow_schema(InventoryItem), ("stamp", pa.string()), ("ends", pa.string()), ("whole", pa.string())]
)
"""A listing as it is kept: the items, and by what a change of their files is noticed. stamp: etag, else size and times of change;
ends: the probe as read, before files that only differ in their middle were told apart; whole: the sha256, where it was needed."""


COLUMNS = ("uri", "bytes", "seconds", "stamp", "ends", "whole")
BLOCK = 1 << 14
"""Rows that become objects at a time."""


class Known:
    """The files of an earlier listing by uri, trusted where their stamps are unchanged."""

    def __init__(self, table: pa.Table | None = None) -> None:
        """`table` has SNAPSHOT's columns; where it tells of a file twice, the later row counts."""
        rows = SNAPSHOT.empty_table().select(COLUMNS) if table is None else table.select(COLUMNS)
        uris = rows.column("uri")
        self._table = rows if is_sorted(uris) else rows.take(pc.sort_indices(uris))
        self._firsts = [self._table.column("uri")[row].as_py() for row in range(0, self._table.num_rows, BLOCK)]
        self._blocks: dict[int, dict[str, dict[str, Any]]] = {}
        self.stamps: dict[str, str] = {}
        self.ends: dict[str, str] = {}
        self.whole: dict[str, str] = {}

    def recall(self, uri: str, stamp: str | None) -> tuple[int, str, float | None] | None:
        """(bytes, probe, seconds) of a file that has not changed since, by the stamp of the file that it lies in."""
        if stamp is None:
            return None
        self.stamps[uri] = stamp
        row = self._row(uri)
        if row is None or row["stamp"] != stamp or row["ends"] is None:  # None: it could not be opened
            return None
        if row["whole"] is not None:
            self.whole[uri] = row["whole"]
        return row["bytes"], row["ends"], row["seconds"]

    def _row(self, uri: str) -> dict[str, Any] | None:
        block = bisect_right(self._firsts, uri) - 1
        if block < 0:
            return None
        if block not in self._blocks:
            rows = self._table.slice(block * BLOCK, BLOCK).to_pylist()
            self._blocks[block] = {row["uri"]: row for row in rows}
        return self._blocks[block].get(uri)

    def hash_whole(self, folder: SourceFolder, uri: str, member: str | None) -> str:
        """The sha256 of a recording's bytes; of one that has not changed, as it was known."""
        if uri not in self.whole:
            with folder.open(uri, member) as file:
                self.whole[uri] = hash_stream(file)
        return self.whole[uri]

    def snapshot(self, items: Sequence[InventoryItem]) -> pa.Table:
        """These files as they are kept (SNAPSHOT)."""
        table = to_table(InventoryItem, items)
        uris = table.column("uri").to_pylist()
        for name, values in (("stamp", self.stamps), ("ends", self.ends), ("whole", self.whole)):
            table = table.append_column(name, pa.array([values.get(uri) for uri in uris], pa.string()))
        return table.cast(SNAPSHOT)

    def learn(self, table: pa.Table) -> None:
        """Take up the marks of files whose snapshot is to be made again."""
        uris = table.column("uri").to_pylist()
        for name, values in (("stamp", self.stamps), ("ends", self.ends), ("whole", self.whole)):
            told = zip(uris, table.column(name).to_pylist(), strict=True)
            values.update((uri, value) for uri, value in told if value is not None)

    def forget(self) -> None:
        """Let go of what was looked up and of the marks of files whose snapshot was made: their memory is used again."""
        self._blocks.clear()
        for marks in (self.stamps, self.ends, self.whole):
            marks.clear()


class Ends(io.RawIOBase):
    """A file of which only both ends were fetched: what a header needs. What lies between reads as nothing."""

    def __init__(self, head: bytes, tail: bytes, size: int) -> None:
        self._head, self._tail, self._size, self._position = head, tail, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        start, gap = self._position, self._size - len(self._tail)
        if start < len(self._head):
            data = self._head[start : start + len(buffer)]
        elif start >= gap:
            data = self._tail[start - gap : start - gap + len(buffer)]
        else:
            data = b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def seconds_by_ends(head: bytes, tail: bytes, size: int) -> float | None:
    """Duration as the header states it, of a file of which only both ends were fetched: a guess, by which work is planned.

    None where there is none, and where the file ends before the samples that its header states.
    """
    if head[:4] == b"OggS" and tail:
        return _ogg_seconds(head, tail)
    ends = io.BufferedReader(Ends(head, tail, size))  # type: ignore[type-var,unused-ignore]
    return None if is_cut_short(ends) else header_seconds(ends)  # type: ignore[arg-type,unused-ignore]


def _ogg_seconds(head: bytes, tail: bytes) -> float | None:
    """From the position that the last page states (RFC 3533): libsndfile would look for it in what was not fetched."""
    last = tail.rfind(b"OggS")
    if last < 0 or len(tail) < last + 14:
        return None
    position = int.from_bytes(tail[last + 6 : last + 14], "little", signed=True)
    if (at := head.find(b"OpusHead")) >= 0:
        position, rate = position - int.from_bytes(head[at + 10 : at + 12], "little"), 48_000
    elif (at := head.find(b"\x01vorbis")) >= 0:
        rate = int.from_bytes(head[at + 12 : at + 16], "little")
    else:
        return None
    return position / rate if position > 0 and rate > 0 else None
