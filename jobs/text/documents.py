"""Documents out of text files: .txt, JSON lines, Parquet and Arrow, plain or as .gz or .zst, local or remote."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.data.text_file import document_ends
from schemas.config import in_short, json_object
from schemas.errors import StorageError
from schemas.storage.files import opened as file_at
from schemas.storage.retry import time_mends

ROWS = 1024
"""Rows of Parquet in memory at a time."""
BLOCK = 1 << 22
Problem = tuple[str, str]
"""A code, and a sentence."""


@dataclass(frozen=True, kw_only=True)
class FoundDocument:
    """A document, or why there is none."""

    place: str
    """The file's name and the row, line or byte in it."""
    text: str = ""
    problem: Problem | None = None


def _fields(line: bytes) -> set[str]:
    try:
        return set(json_object(line.decode("utf-8-sig")))
    except ValueError:  # reading it will say what is wrong
        return set()


@contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    """A file's bytes, decompressed as its name says."""
    with file_at(url) as file:
        kind = {"gz": "gzip", "zst": "zstd"}.get(url.rsplit(".", 1)[-1].lower())
        if kind is None:
            yield file
            return
        with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), kind) as stream:
            yield io.BufferedReader(stream, 1 << 16)  # what is lost where a file breaks off


def fields_of_file(url: str, form: str) -> set[str] | None:
    """The fields of a file's rows (JSON lines: of the first ROWS); None where there are no rows, or it cannot be said yet."""
    try:
        with opened(url) as file:
            if form == "parquet":
                return set(pq.read_schema(file).names)
            if form == "arrow":
                return set(_arrow(file).schema.names)
            if form == "jsonl":
                rows = [_fields(line) for line in itertools.islice(file, ROWS)]
                return set().union(*rows) if any(rows) else None
    except (OSError, EOFError, ValueError, pa.ArrowInvalid):
        return None  # reading it will say what is wrong, and go on with the others
    return None


def documents(
    url: str, form: str, start: int, end: int, fields: Sequence[str], document_chars: int
) -> Iterator[FoundDocument]:
    """The documents that begin in a piece, in order; several fields become one text with a blank line between.

    A file that breaks off gives what it holds up to there, and a problem.

    Raises:
        StorageError: the storage broke off, and not the file: what else it holds nobody knows, so its item must not be committed.
    """
    name, last = url.rsplit("/", 1)[-1], "its beginning"
    try:
        if form == "txt":
            rows = _texts(url, document_chars)
        elif form == "jsonl":
            rows = _lines(url, start, end, fields)
        else:
            rows = _columns(url, form, start, end, fields)
        for last, text, problem in rows:
            yield FoundDocument(place=f"{name}: {last}", text=text, problem=problem)
    except Exception as error:
        if isinstance(error, StorageError) or ("://" in url and time_mends(url, error)):
            raise StorageError(f"{url} could not be read to its end: {in_short(error)}") from error
        if not isinstance(error, OSError | EOFError | ValueError | pa.ArrowInvalid):
            raise
        why = ("unreadable", f"cannot be read from there on: {in_short(error)}")
        yield FoundDocument(place=f"{name}: after {last}", problem=why)


Row = tuple[str, str, Problem | None]


def _texts(url: str, document_chars: int) -> Iterator[Row]:
    with opened(url) as file:
        yield from _cut(iter(lambda: file.read(BLOCK), b""), document_chars)


def _cut(blocks: Iterator[bytes], document_chars: int) -> Iterator[Row]:
    held, begun = bytearray(), 0

    def remembered() -> Iterator[bytes]:
        for block in blocks:
            held.extend(block)
            yield block

    for end, _ in document_ends(remembered(), document_chars):
        text, problem = _decoded(bytes(held[: end - begun]))
        yield f"byte {begun}", text, problem
        del held[: end - begun]
        begun = end


def _decoded(data: bytes) -> tuple[str, Problem | None]:
    try:
        return data.decode("utf-8-sig").strip(), None
    except UnicodeDecodeError as error:
        return "", ("not_utf8", f"byte {error.start} of the document is not UTF-8: save the file as UTF-8")


def _lines(url: str, start: int, end: int, fields: Sequence[str]) -> Iterator[Row]:
    """A line belongs to the piece that it begins in; compressed files are one piece."""
    compressed = url.lower().endswith((".gz", ".zst"))
    with opened(url) as file:
        position = 0
        if start:
            file.seek(start - 1)
            position = start - 1 + len(file.readline())  # the rest of the line that the piece before has, if any
        for line in file:
            if position >= end and not compressed:
                return
            if line.strip():
                yield f"byte {position}", *_row_of(line, fields)
            position += len(line)


def _row_of(line: bytes, fields: Sequence[str]) -> tuple[str, Problem | None]:
    try:
        return _joined(json_object(line.decode("utf-8-sig")), fields)
    except UnicodeDecodeError as error:
        return "", ("not_utf8", f"byte {error.start} of the line is not UTF-8")
    except ValueError as error:
        return "", ("not_utf8" if isinstance(error.__cause__, UnicodeEncodeError) else "bad_json", str(error))


def _joined(row: dict[str, Any], fields: Sequence[str]) -> tuple[str, Problem | None]:
    parts = []
    for field in fields:
        value = row.get(field)
        if not isinstance(value, str):
            what = "is missing" if field not in row else f"is {type(value).__name__}, not text"
            return "", ("no_text", f"the field {field!r} {what}")
        parts.append(value.strip())
    text = "\n\n".join(part for part in parts if part)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "", ("not_utf8", "half of a surrogate pair, which no UTF-8 text can hold")
    return text, None


def _columns(url: str, form: str, start: int, end: int, fields: Sequence[str]) -> Iterator[Row]:
    with opened(url) as file:
        if form == "parquet":
            groups = list(range(start, end))
            batches = pq.ParquetFile(file).iter_batches(
                ROWS, row_groups=groups, columns=list(fields), use_threads=False
            )
        else:
            batches = (batch.select(list(fields)) for batch in _arrow(file))
        place = itertools.count()
        for batch in batches:
            for row in batch.to_pylist():
                yield f"row {next(place)}" + (f" from row group {start}" if start else ""), *_joined(row, fields)


def _arrow(file: IO[bytes]) -> pa.RecordBatchReader:
    """The stream that Hugging Face `datasets` saves as data-*.arrow."""
    return pa.ipc.open_stream(file)
