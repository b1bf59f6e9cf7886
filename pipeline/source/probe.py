"""Looking into files: what their first and last bytes tell, or what an earlier listing knew, and which of them are copies."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpora.read import Entry
from pipeline.source.folder import SourceFolder, ends_of
from pipeline.source.known import Known, seconds_by_ends
from pipeline.source.listing import BATCH, FileRow, Found
from pipeline.source.members import container_of
from pipeline.source.metadata import FileFacts
from pipeline.source.partitions import ITEM, is_sorted
from schemas.arrow import to_rows
from schemas.errors import StorageError
from schemas.tables import InventoryItem, RejectCode

PROBE_THREADS = 8
"""Probing waits for storage and not for the processor."""
Looked = tuple[int, str, float | None]
"""Bytes, probe, and seconds by the header."""
LookMany = Callable[[str, Sequence[tuple[str, int | None]]], Sequence[Looked | str]]
"""As `look_at`: a cluster's workers may do it (jobs/cluster/probing.py)."""


def refused_item(uri: str, code: RejectCode, detail: str) -> InventoryItem:
    """What is known beforehand to be no recording, with the reject that it becomes."""
    return InventoryItem(uri=uri, bytes=0, probe="", seconds=None, refused=code, detail=detail)


def look_at(uri: str, files: Sequence[tuple[str, int | None]]) -> list[Looked | str]:
    """What the first and last bytes tell of files of a folder, given with their sizes where a listing told them; a sentence for
    one that cannot be opened.

    Raises:
        StorageError: the storage did not answer.
    """
    folder = SourceFolder(uri)

    def look(file: tuple[str, int | None]) -> Looked | str:
        try:
            return _look(folder, file[0], None, file[1])
        except StorageError:
            raise  # nothing is known of the file: the inventory must not say that it is missing
        except OSError as error:
            return _cannot_open(error)

    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        return list(pool.map(look, files))


def _look(folder: SourceFolder, uri: str, member: str | None, size: int | None) -> Looked:
    head, tail, size = folder.open_ends(uri, member, size)
    return size, _probe_of(head, tail, size), seconds_by_ends(head, tail, size) if size else None


def _probe_of(head: bytes, tail: bytes, size: int) -> str:
    return hashlib.sha256(f"{size}:".encode() + head + tail).hexdigest()[:32]


def _told_apart(probe: str, digest: str) -> str:
    """The probe of a file that others equal in size and at both ends, by the sha256 of all its bytes."""
    return hashlib.sha256(f"{probe}{digest}".encode()).hexdigest()[:32]


def is_as_listed(item: InventoryItem, file: BinaryIO, digest: str) -> bool:
    """Whether an open file, whose bytes have this sha256, is the one that became the item."""
    probe = _probe_of(*ends_of(file))
    return item.probe in (probe, _told_apart(probe, digest))


def _cannot_open(error: OSError) -> str:
    return f"it cannot be opened: {error.strerror or error}"


class Probe:
    """Looks into files that are not known: their first and last bytes, and all of them where those are not enough."""

    def __init__(self, folder: SourceFolder, found: Found, known: Known, look_many: LookMany = look_at) -> None:
        self._folder, self._found, self._known, self._look_many = folder, found, known, look_many

    def files(self, names: Sequence[str], facts: Mapping[str, FileFacts], refused: Sequence[InventoryItem]) -> pa.Table:
        """Files of the folder with what is said of them, and these items, as they are kept (SNAPSHOT), sorted by uri."""
        pieces = [self._known.snapshot(refused)]
        listed = self._found.rows()
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            told = [_next(listed, name) for name in batch]
            looked = self._look_all(told)
            items = [_item(name, it, facts.get(name, FileFacts())) for name, it in zip(batch, looked, strict=True)]
            pieces.append(self._known.snapshot(items))
            self._known.forget()
        table = pa.concat_tables(pieces)
        return self._told_apart(table if is_sorted(table.column("uri")) else _in_order(table))

    def _look_all(self, files: Sequence[tuple[str, int | None, str | None]]) -> list[Looked | str]:
        known = {name: self._known.recall(name, stamp) for name, _, stamp in files}
        new = [(name, size) for name, size, _ in files if known[name] is None]
        found = iter(self._look_many(self._folder.uri, new) if new else ())
        looked = [known[name] or next(found) for name, *_ in files]
        for (name, *_), it in zip(files, looked, strict=True):
            if isinstance(it, tuple):
                self._known.ends[name] = it[1]
        return looked

    def snapshot(self, items: Sequence[InventoryItem]) -> pa.Table:
        """Items that were made by `entry` as they are kept (SNAPSHOT), with copies marked."""
        return self._known.snapshot(self._mark_duplicates(items))

    def restated(self, table: pa.Table, items: Sequence[InventoryItem]) -> pa.Table:
        """The snapshot of these items with the marks that another of the same files has."""
        self._known.learn(table)
        return self._known.snapshot(items)

    def _told_apart(self, table: pa.Table) -> pa.Table:
        """A snapshot whose copies are marked. Only files whose probe another has become objects."""
        doubtful = _share_probe(table)
        if not doubtful.any():
            return table
        rows = table.filter(pa.array(doubtful))
        self._known.learn(rows)
        items = self._mark_duplicates(to_rows(InventoryItem, rows.select(ITEM.names).cast(ITEM)))
        return _in_order(pa.concat_tables([table.filter(pa.array(~doubtful)), self._known.snapshot(items)]))

    def entry(self, entry: Entry) -> InventoryItem:
        """An entry of a corpus's tables. A file that is not there is listed all the same: it becomes a reject."""
        size, probe, seconds = 0, "", None
        refused, detail = entry.refused, entry.detail
        if refused is None:
            try:
                size, probe, seconds = self._look(entry.uri, entry.member)
            except StorageError:
                raise
            except OSError as error:
                refused, detail = "missing", _cannot_open(error)
        return InventoryItem(
            uri=entry.uri,
            bytes=size,
            probe=probe,
            seconds=seconds,
            transcript=entry.transcript,
            language_hint=entry.language,
            license=entry.license,
            extra=entry.extra,
            member=entry.member,
            given=entry.given,
            refused=refused,
            detail=detail,
        )

    def _look(self, uri: str, member: str | None) -> Looked:
        name = container_of(uri, member)
        stamp = self._found.stamps.get(name)
        looked = self._known.recall(uri, stamp if member is None or stamp is None else f"{stamp}:{member}")
        if looked is None:
            looked = _look(self._folder, uri, member, self._found.sizes.get(uri))
        self._known.ends[uri] = looked[1]
        return looked

    def _mark_duplicates(self, items: Sequence[InventoryItem]) -> list[InventoryItem]:
        """Equal probes are compared by the hash of all bytes. The first uri of which a text or segments are known keeps its
        place, else the first; a copy with another text says so.

        Files that differ in their middle alone get probes of their own, by that hash.
        """
        same_probe: dict[str, list[InventoryItem]] = defaultdict(list)
        for item in items:
            if item.bytes:
                same_probe[item.probe].append(item)
        changed: dict[str, InventoryItem] = {}
        for probe, group in same_probe.items():
            if len(group) < 2:
                continue
            first: dict[str, InventoryItem] = {}
            digests = {item.uri: self._known.hash_whole(self._folder, item.uri, item.member) for item in group}
            for item in sorted(group, key=lambda item: item.transcript is None and item.given is None):
                original = first.setdefault(digests[item.uri], item)
                if original is not item:
                    differs = item.transcript is not None and item.transcript != original.transcript
                    changed[item.uri] = item.with_updates(
                        duplicate_of=original.uri,
                        detail=f"its text differs from that of {original.uri}" if differs else item.detail,
                    )
            if len(first) > 1:
                for item in group:
                    own = _told_apart(probe, digests[item.uri])
                    changed[item.uri] = changed.get(item.uri, item).with_updates(probe=own)
        return [changed.get(item.uri, item) for item in items]


def _item(name: str, looked: Looked | str, facts: FileFacts) -> InventoryItem:
    if isinstance(looked, str):
        return refused_item(name, "missing", looked)
    size, probe, seconds = looked
    return InventoryItem(
        uri=name,
        bytes=size,
        probe=probe,
        seconds=seconds,
        transcript=facts.transcript,
        language_hint=facts.language,
        license=facts.license,
        extra=facts.extra,
    )


def _next(rows: Iterator[FileRow], name: str) -> tuple[str, int | None, str | None]:
    """The row of this name, which comes later in `rows` than all asked for before; without size and stamp where there is none."""
    return next((row for row in rows if row[0] == name), (name, None, None))


def _share_probe(table: pa.Table) -> np.ndarray:
    """bool [n]: files that are not empty and have the probe of another, by its first 16 hex digits."""
    keys = np.zeros(table.num_rows, np.uint64)
    start = 0
    for piece in table.column("probe").chunks:
        for first in range(0, len(piece), BATCH):
            digits = "".join(probe[:16] or "0" * 16 for probe in piece.slice(first, BATCH).to_pylist())
            found = np.frombuffer(bytes.fromhex(digits), ">u8")
            keys[start : start + len(found)] = found
            start += len(found)
    ordered = np.sort(keys)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    shared: np.ndarray = np.isin(keys, twice) & (table.column("bytes").to_numpy() > 0)
    return shared


def _in_order(table: pa.Table) -> pa.Table:
    return table.take(pc.sort_indices(table.column("uri")))
