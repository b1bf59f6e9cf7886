"""Work known by content: the inventory as an Arrow table, cut where the files themselves say, named by what the cuts hold.

A boundary follows from a file's own identity (content-defined chunking, as in LBFS, Muthitacharoen et al. 2001), so a file that
comes or goes moves the boundaries next to it and no others. Nothing here grows with Python objects: 10^7 files are columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.arrow import arrow_schema, to_rows, to_table
from schemas.tables import InventoryItem

SCALE = 1_000_000
"""A full partition in the whole numbers that lengths are counted in: sums must not depend on where a sum begins."""
LEAST, MOST = SCALE // 2, SCALE * 3 // 2
"""What a partition may hold. The lower bound keeps unlucky hashes from cutting a corpus into crumbs, the upper one bounds a
worker's memory. Where between them it is cut is left to the hashes, so that a file more moves one cut and not all after it."""
BYTES_PER_SECOND = 16_000
"""Where no header tells the length: 128 kbit/s."""
ITEM = arrow_schema(InventoryItem)
CHUNK = 1 << 17
"""Files whose text is in memory as Python objects or joined strings at a time."""


def cut_by_content(fill: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Cut a sequence where its elements' marks say so.

    An element ends its run with a probability that grows with its length, once the run holds `LEAST`; a run never exceeds
    `MOST` unless it is one element. Runs are on average about `SCALE` long.

    Args:
        fill: int64 [n], lengths in parts of `SCALE`.
        marks: float64 [n] in [0, 1), a function of the element alone.

    Returns:
        int64 [runs + 1]: run r is [cuts[r], cuts[r + 1]).
    """
    total = np.concatenate([[0], np.cumsum(fill)])
    # A file ends its run with a probability that grows with its length as if each second of it could (an exponential law): the
    # mean is then SCALE whether the audio lies in one file or in a hundred.
    ends = np.flatnonzero(marks < -np.expm1(-fill / (SCALE - LEAST))) + 1
    cuts, start, count = [0], 0, len(fill)
    while start < count:
        least = int(np.searchsorted(total, total[start] + LEAST))  # the first end with at least LEAST before it
        most = max(int(np.searchsorted(total, total[start] + MOST, side="right")) - 1, start + 1)
        position = int(np.searchsorted(ends, least))
        chosen = int(ends[position]) if position < len(ends) else count
        start = min(chosen, most, count)
        cuts.append(start)
    return np.asarray(cuts, np.int64)


class Inventory(Sequence["Partition"]):
    """The files of a source, in uri order, and their partitions. Items become objects one partition at a time."""

    def __init__(self, table: pa.Table, minutes: float, files: int) -> None:
        """`table` has InventoryItem's columns; a partition holds about `minutes` of audio, or `files` files if that is less."""
        table = table.select(ITEM.names)
        if not is_sorted(table.column("uri")):
            table = table.take(pc.sort_indices(table.column("uri")))
        self.table = table
        digests = _digests(table.column("probe"))
        self.content = digests[:, :8]
        """uint8 [files, 8]: what a file is, wherever it lies and whatever is said of it."""
        aside = pc.or_(pc.is_valid(table.column("duplicate_of")), pc.equal(table.column("bytes"), 0))
        self.is_aside = np.asarray(pc.or_(aside, pc.is_valid(table.column("refused"))))
        """bool [files]: copies of others, empty files, and what was refused when it was listed have no rows of their own."""
        seconds = table.column("seconds").to_numpy()
        self.seconds = np.nan_to_num(seconds.astype(np.float64))
        guess = table.column("bytes").to_numpy() / BYTES_PER_SECOND
        lengths = np.where(np.isfinite(seconds), seconds, guess)
        fill = np.maximum(lengths / (minutes * 60), 1 / files)
        marks = digests[:, 8:].copy().view(">u8").ravel() / 2.0**64
        marks[self.is_aside] = 1
        self.cuts = cut_by_content((fill * SCALE).astype(np.int64), marks)
        self.names = self.unit_names((), everything=False)

    @classmethod
    def of(cls, items: Sequence[InventoryItem], minutes: float, files: int) -> Inventory:
        """The inventory of these items."""
        return cls(to_table(InventoryItem, items), minutes, files)

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def __getitem__(self, number):  # type: ignore[no-untyped-def]  # a Partition, or a list of them for a slice
        if isinstance(number, slice):
            return [self[index] for index in range(len(self))[number]]
        number = range(len(self))[number]
        return Partition(inventory=self, number=number)

    def __iter__(self) -> Iterator[Partition]:
        return (Partition(inventory=self, number=number) for number in range(len(self)))

    @property
    def num_files(self) -> int:
        """Files, copies among them."""
        return int(self.table.num_rows)

    @cached_property
    def partition_seconds(self) -> np.ndarray:
        """float64 [partitions]: audio by the headers."""
        total = np.concatenate([[0.0], np.cumsum(self.seconds)])
        lengths: np.ndarray = total[self.cuts[1:]] - total[self.cuts[:-1]]
        return lengths

    def ids(self, start: int, stop: int) -> list[str]:
        """16 hex digits per file of [start, stop)."""
        text = self.content[start:stop].tobytes().hex()
        return [text[at : at + 16] for at in range(0, len(text), 16)]

    def unit_names(self, labels: Sequence[str], everything: bool, salt: str = "") -> np.ndarray:
        """Names of the partitions by their files' content and these columns: bytes S16 [partitions].

        Files that have no rows of their own count only with `everything`.
        """
        names = np.zeros(len(self), "S16")
        first = 0
        while first < len(self):
            last = max(int(np.searchsorted(self.cuts, self.cuts[first] + CHUNK)), first + 1)
            last = min(last, len(self))
            start, stop = int(self.cuts[first]), int(self.cuts[last])
            text, offsets = self._joined(start, stop, labels, everything)
            cuts = self.cuts[first : last + 1] - start
            for number in range(last - first):
                piece = text[offsets[cuts[number]] : offsets[cuts[number + 1]]]
                names[first + number] = hashlib.sha256(salt.encode() + piece).hexdigest()[:16]
            first = last
        return names

    def _joined(self, start: int, stop: int, labels: Sequence[str], everything: bool) -> tuple[memoryview, np.ndarray]:
        """What the files of [start, stop) are known by, end to end, and where each begins."""
        columns = [pa.array(self.ids(start, stop), pa.large_string())]
        kept = np.ones(stop - start, bool) if everything else ~self.is_aside[start:stop]
        part = self.table.slice(start, stop - start)
        said = [pc.cast(part.column(name).combine_chunks(), pa.large_string()) for name in labels]
        joined = columns[0]
        if said:
            with_labels = pc.binary_join_element_wise(
                *columns, *said, pa.scalar("\x1f", pa.large_string()), null_handling="replace", null_replacement="\0"
            )
            silent = np.logical_and.reduce([np.asarray(pc.is_null(column)) for column in said])
            joined = pc.if_else(pa.array(silent), joined, with_labels)
        joined = pc.if_else(pa.array(kept), joined, pa.scalar("", pa.large_string()))
        if isinstance(joined, pa.ChunkedArray):
            joined = joined.combine_chunks()
        offsets = np.frombuffer(joined.buffers()[1], np.int64)[joined.offset : joined.offset + len(joined) + 1]
        data = joined.buffers()[2]
        return memoryview(data if data is not None else b""), offsets

    def items(self, start: int, stop: int) -> tuple[InventoryItem, ...]:
        """The files of [start, stop) as objects."""
        return tuple(to_rows(InventoryItem, self.table.slice(start, stop - start).cast(ITEM)))


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A run of files that is worked on and committed as one."""

    inventory: Inventory
    number: int

    @property
    def name(self) -> str:
        """16 hex digits: the hash of its files' contents in their order."""
        return bytes(self.inventory.names[self.number]).decode()

    @property
    def bounds(self) -> tuple[int, int]:
        """[start, stop) in the inventory."""
        return int(self.inventory.cuts[self.number]), int(self.inventory.cuts[self.number + 1])

    @cached_property
    def items(self) -> tuple[InventoryItem, ...]:
        """Its files."""
        return self.inventory.items(*self.bounds)

    @property
    def seconds(self) -> float:
        """Audio by the headers."""
        return float(self.inventory.partition_seconds[self.number])


def has_rows(item: InventoryItem) -> bool:
    """Whether a file can have rows of its own."""
    return item.duplicate_of is None and item.bytes > 0 and item.refused is None


def content_id(item: InventoryItem) -> str:
    """16 hex digits: what a file is, wherever it lies and whatever is said of it."""
    return hashlib.sha256(item.probe.encode()).hexdigest()[:16]


def _digests(probes: pa.ChunkedArray) -> np.ndarray:
    """uint8 [n, 16]: half a sha256 of each probe. The first half names the file, the second says whether it ends a partition."""
    found = np.zeros((len(probes), 16), np.uint8)
    for start in range(0, len(probes), CHUNK):
        texts = probes.slice(start, CHUNK).to_pylist()
        data = b"".join(hashlib.sha256(text.encode()).digest()[:16] for text in texts)
        found[start : start + len(texts)] = np.frombuffer(data, np.uint8).reshape(-1, 16)
    return found


def is_sorted(values: pa.ChunkedArray) -> bool:
    """Whether a column of text is in order. Piece by piece: more than 2 GB of text in one does not fit."""
    last: str | None = None
    for piece in values.chunks:
        if not len(piece):
            continue
        if last is not None and piece[0].as_py() < last:
            return False
        if len(piece) > 1 and not pc.all(pc.less_equal(piece.slice(0, len(piece) - 1), piece.slice(1))).as_py():
            return False
        last = piece[-1].as_py()
    return True
