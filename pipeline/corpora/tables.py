"""Rows of the text files that corpora come with: .tsv, .csv, .jsonl, .parquet, lines; each also as .gz."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora.base import CorpusFolder
from schemas.config import ConfigError, json_object
from schemas.errors import StorageError

TABLE_SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet")
AS_UTF8 = "save the file as UTF-8"
MOST_WITHOUT = 100
"""Rows at the beginning of a table that may lack what it is read for, before it is taken for a table of something else."""


class RowError(ValueError):
    """One row of a file that cannot be read: the rest can."""

    def __init__(self, place: str, detail: str) -> None:
        super().__init__(detail)
        self.place = place
        """File and line."""
        self.detail = detail


def read_bytes(files: CorpusFolder, name: str) -> bytes:
    """A whole file, unpacked where it ends in .gz.

    Raises:
        ConfigError: it cannot be opened, or is no gzip file, or is cut short.
    """
    try:
        with files.open(name) as file:
            content = file.read()
        return gzip.decompress(content) if name.endswith(".gz") else content
    except StorageError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {name} in {files.uri}: {reason}") from error


def read_text(files: CorpusFolder, name: str) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        ConfigError: it cannot be opened, or is not UTF-8.
    """
    try:
        return read_bytes(files, name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8: {error.reason} at byte {error.start}: {AS_UTF8}") from error


def lines_of(files: CorpusFolder, name: str) -> Iterator[tuple[int, str | RowError]]:
    """(number, line) of every line that is not blank. Lines end in \\n or \\r\\n and in nothing else.

    A line that is not UTF-8 costs itself alone and comes as the RowError that says so.

    Raises:
        ConfigError: the file cannot be opened.
    """
    for number, data in enumerate(read_bytes(files, name).removeprefix(BOM_UTF8).split(b"\n"), start=1):
        try:
            line: str | RowError = data.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            detail = f"it is not UTF-8: {error.reason} at byte {error.start} of the line: {AS_UTF8}"
            line = RowError(f"{name}:{number}", detail)
        if isinstance(line, RowError) or line.strip():
            yield number, line


def utterance_lines(files: CorpusFolder, name: str) -> Iterator[tuple[int, tuple[str, str] | RowError]]:
    """(number, (identity, text)) of every line of a LibriSpeech *.trans.txt, whose identities are names of files beside it.

    Raises:
        ConfigError: the file cannot be opened.
    """
    for number, line in lines_of(files, name):
        if isinstance(line, RowError):
            yield number, line
            continue
        identity, *text = line.split(maxsplit=1)
        if "\r" in line.strip():
            yield (
                number,
                RowError(
                    f"{name}:{number}", "a carriage return stands inside it: save the file with lines that end in \\n"
                ),
            )
        elif "/" in identity or identity in (".", ".."):
            yield (
                number,
                RowError(f"{name}:{number}", f"it names {identity!r}, but the files of a *.trans.txt lie beside it"),
            )
        else:
            yield number, (identity, text[0].strip() if text else "")


def read_table(
    files: CorpusFolder, name: str, kind: str | None = None
) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    """(place, row by column name) of a table with a header, by the grammar that its suffix stands for.

    .tsv: split at tabs, a quote is a quote. .csv: commas, RFC 4180's quotes. .jsonl (and .json with an object a line).
    .parquet. `kind` stands for the suffix where the name has another. A row that cannot be read comes as the RowError that
    says why.

    Raises:
        ConfigError: the file cannot be read at all, or its suffix is none of these.
    """
    suffix = kind or PurePosixPath(name.removesuffix(".gz")).suffix.lower()
    if suffix == ".tsv":
        rows = lines_of(files, name)
        yield from _separated(
            name, ((number, line if isinstance(line, RowError) else line.split("\t")) for number, line in rows)
        )
    elif suffix == ".csv":
        yield from _csv(name, read_text(files, name))
    elif suffix in (".jsonl", ".json"):
        for number, line in lines_of(files, name):
            place = f"{name}:{number}"
            yield place, line if isinstance(line, RowError) else json_row(place, line)
    elif suffix == ".parquet":
        try:
            table: list[dict[str, Any]] = pq.read_table(io.BytesIO(read_bytes(files, name))).to_pylist()
        except pa.ArrowException as error:
            raise ConfigError(f"{name} cannot be read as .parquet: {error}") from error
        yield from ((f"{name}:{number}", row) for number, row in enumerate(table, start=1))
    else:
        raise ConfigError(f"{name}: a table ends in {', '.join(TABLE_SUFFIXES)}, or in one of these and .gz")


def rows_with(
    columns: Collection[str],
    rows: Iterable[tuple[str, dict[str, Any] | RowError]],
    refuse: Callable[[Mapping[str, Any]], ConfigError],
) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    """(place, row) of a table, where a row without any of `columns` is a RowError: lines of JSON have names each of their own.

    Raises:
        ConfigError: none of the first `MOST_WITHOUT` rows has one; it is what `refuse` makes of the first.
    """
    without: list[tuple[str, dict[str, Any]]] = []
    known = False
    for place, row in rows:
        if not isinstance(row, RowError) and not any(column in row for column in columns):
            without += [] if known else [(place, row)]
            if len(without) == MOST_WITHOUT and not known:
                break
            row = RowError(place, f"it has none of {', '.join(columns)}; it has {first_columns(row)}")
        elif not isinstance(row, RowError):
            known = True
        yield place, row
    if without and not known:
        raise refuse(without[0][1])


def _separated(
    name: str, rows: Iterable[tuple[int, list[str] | RowError]]
) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    header: list[str] | None = None
    for number, row in rows:
        place = f"{name}:{number}"
        if header is None:
            if isinstance(row, RowError):
                raise ConfigError(f"{name}: {row.detail}")
            header = [column.strip() for column in row]
            if twice := [column for column, count in Counter(header).items() if column and count > 1]:
                raise ConfigError(f"{name} has the column {twice[0]!r} twice: which of them is meant?")
        elif isinstance(row, RowError):
            yield place, row
        elif len(row) > len(header):
            yield place, RowError(place, f"it has {len(row)} columns where the header names {len(header)}")
        else:
            yield place, dict(zip(header, row, strict=False))


def _csv(name: str, text: str) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    broken: RowError | None = None
    begin = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((begin, row))
            begin = reader.line_num + 1
    except csv.Error as error:  # a quote that is never closed: where the next row begins nobody can tell
        broken = RowError(f"{name}:{begin}", f"the file cannot be read from here on: {error}")
    yield from _separated(name, rows)
    if broken is not None:
        yield broken.place, broken


def json_row(place: str, line: str) -> dict[str, Any] | RowError:
    """A line as a JSON object, strictly; else the RowError that says why it is none."""
    try:
        return json_object(line)
    except ValueError as error:
        return RowError(place, str(error))


def first_columns(row: Mapping[str, Any]) -> str:
    """The columns of a row for a sentence about what was found."""
    return ", ".join(map(str, row)) or "none"
