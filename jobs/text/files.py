"""The files of a text corpus, and how they are cut into items: an item is written, committed and resumed as one."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from jobs.text.documents import fields_of_file
from schemas.cards import fingerprint
from schemas.config import ConfigError, in_short
from schemas.errors import DataError
from schemas.storage.files import filesystem_of, opened
from schemas.storage.retry import asked_again
from schemas.storage.tree import SIGNS, files_below, is_folder, matching_files

Form = Literal["txt", "jsonl", "parquet", "arrow"]
SUFFIXES: dict[str, Form] = {
    ".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".arrow": "arrow",
}  # fmt: skip
COMPRESSED = (".gz", ".zst")
NOT_DATA = ("dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json")
"""What Hugging Face `datasets` writes beside its data."""
PROBE_BYTES = 65_536
"""Read at either end of a file: reading a corpus whole before anything is done would take hours."""
PROBE_THREADS = 8
"""Probing waits for storage and not for the processor."""


@dataclass(frozen=True, kw_only=True)
class FilePiece:
    """A file, or the part of one that begins in [start, end): bytes of JSONL, row groups of Parquet."""

    url: str
    form: Form
    probe: str
    """sha256 over the size and the first and last 64 KiB: notices a changed file without reading all of it. Of all bytes, where
    another file has the same."""
    start: int
    end: int
    size: int
    """Bytes to read."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """Pieces that are worked on together."""

    pieces: tuple[FilePiece, ...]

    @property
    def name(self) -> str:
        """A hash of what is in it, so that a file that is an item by itself, more or less, leaves the others what they were."""
        return fingerprint([asdict(piece) | {"url": piece.url.rsplit("/", 1)[-1]} for piece in self.pieces])[:16]


def plan_items(sources: Sequence[str], fields: Sequence[str], item_bytes: int) -> tuple[list[Item], int]:
    """The items of the sources, in the order of sources and names: pieces of up to `item_bytes`, small files together; and how
    many pieces are copies of others, by name and content, and left out.

    Raises:
        ConfigError: a source is missing or holds no text, or a file lacks a field.
    """
    urls = [url for source in sources for url in list_files(source)]
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        pieces = [piece for found in pool.map(lambda url: _pieces(url, fields, item_bytes), urls) for piece in found]
        pieces = _told_apart(pieces, pool)
    seen: set[str] = set()
    kept = []
    for piece in pieces:
        if (name := Item(pieces=(piece,)).name) not in seen:
            seen.add(name)
            kept.append(piece)
    return list(_together(kept, item_bytes)), len(pieces) - len(kept)


def _told_apart(pieces: list[FilePiece], pool: ThreadPoolExecutor) -> list[FilePiece]:
    """The pieces, where files of one name and probe are read whole: one that differs from the first gets another probe. The first
    keeps its own, so its items stay what they are without the others."""
    alike: dict[tuple[str, str], dict[str, None]] = {}
    for piece in pieces:
        if piece.form == "parquet" or piece.end > 2 * PROBE_BYTES:  # of a smaller file the probe is of all bytes
            alike.setdefault((piece.url.rsplit("/", 1)[-1], piece.probe), {})[piece.url] = None
    seeming = {url: next(iter(urls)) for urls in alike.values() if len(urls) > 1 for url in urls}
    contents = dict(zip(seeming, pool.map(_content, seeming), strict=True))
    others = {url: contents[url] for url, first in seeming.items() if contents[url] != contents[first]}
    return [replace(piece, probe=others.get(piece.url, piece.probe)) for piece in pieces] if others else pieces


def _content(url: str) -> str:
    with opened(url) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(source: str) -> list[str]:
    """The text files that a path, glob or URL stands for, sorted.

    Raises:
        ConfigError: there is none.
    """
    files, path = filesystem_of(source)
    if is_folder(files, path):
        names = files_below(files, path.rstrip("/"))
    elif asked_again(path, lambda: files.exists(path)):  # first, for a name may hold a bracket
        names = [path]
    else:
        names = matching_files(files, path) if SIGNS.search(path) else []
    if not names:
        raise ConfigError(f"there is no {source}", "name a file, a folder or a pattern of text files")
    single = len(names) == 1 and names[0].rstrip("/") == path.rstrip("/")
    wanted = [name for name in names if single or _is_text(name)]
    unknown = [name for name in wanted if _form(name) is None]
    if unknown or not wanted:
        known = ", ".join(sorted(SUFFIXES))
        raise ConfigError(f"{source} holds no text", f"files are known by their ends: {known}, also with .gz or .zst")
    return [files.unstrip_protocol(name) if "://" in source else str(name) for name in wanted]


def _is_text(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return _form(name) is not None and base not in NOT_DATA and not base.startswith((".", "_"))


def _form(name: str) -> Form | None:
    lower = name.lower()
    for suffix in COMPRESSED:
        lower = lower.removesuffix(suffix)
    return next((form for suffix, form in SUFFIXES.items() if lower.endswith(suffix)), None)


def _pieces(url: str, fields: Sequence[str], item_bytes: int) -> list[FilePiece]:
    form = _form(url)
    assert form is not None
    files, path = filesystem_of(url)
    size = int(files.size(path))
    with files.open(path, "rb") as file:
        head = file.read(PROBE_BYTES)
        file.seek(max(size - PROBE_BYTES, 0))
        probe = hashlib.sha256(str(size).encode() + head + file.read(PROBE_BYTES)).hexdigest()
    common: dict[str, Any] = {"url": url, "form": form, "probe": probe}
    _check_fields(url, form, fields)
    if form == "jsonl" and not url.lower().endswith(COMPRESSED):
        starts = [*range(0, max(size, 1), item_bytes), size]
        return [FilePiece(**common, start=a, end=b, size=b - a) for a, b in itertools.pairwise(starts)]
    if form == "parquet":
        return list(_row_groups(url, common, item_bytes))
    return [FilePiece(**common, start=0, end=size, size=size)]


def _check_fields(url: str, form: Form, fields: Sequence[str]) -> None:
    known = fields_of_file(url, form)
    missing = [field for field in fields if known is not None and field not in known]
    if missing:
        has = ", ".join(sorted(known or ())) or "none"
        raise ConfigError(
            f"{url} has no field {missing[0]!r}; it has: {has}", "name the one with the text: --field NAME"
        )


def _row_groups(url: str, common: dict[str, Any], item_bytes: int) -> Iterator[FilePiece]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with opened(url) as file:
        try:
            facts = pq.ParquetFile(file).metadata
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{url} is damaged: {in_short(error).removesuffix('.')}", "remove it, or fetch it again"
            ) from error
        sizes = [facts.row_group(number).total_byte_size for number in range(facts.num_row_groups)]
    start = held = 0
    for number, size in enumerate(sizes):
        held += size
        if held >= item_bytes or number == len(sizes) - 1:
            yield FilePiece(**common, start=start, end=number + 1, size=held)
            start, held = number + 1, 0


def _together(pieces: Iterable[FilePiece], item_bytes: int) -> Iterator[Item]:
    held: list[FilePiece] = []
    size = 0
    for piece in pieces:
        if held and size + piece.size > item_bytes:
            yield Item(pieces=tuple(held))
            held, size = [], 0
        held.append(piece)
        size += piece.size
    if held:
        yield Item(pieces=tuple(held))
