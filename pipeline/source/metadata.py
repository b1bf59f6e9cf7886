"""What comes with audio: manifests (.tsv, .jsonl, .parquet) and sidecar transcripts. Their paths are not trusted."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.source.folder import SourceFolder
from schemas.config import ConfigError

COLUMNS = {
    "transcript": "transcript",
    "text": "transcript",
    "language": "language",
    "license": "license",
    "licence": "license",
}
"""Manifest column -> fact; every other column goes into `extra`."""


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What a manifest or a sidecar says of a file."""

    transcript: str | None = None
    language: str | None = None
    license: str | None = None
    extra: str | None = None

    def with_transcript(self, text: str) -> FileFacts:
        """The same facts with this transcript."""
        return replace(self, transcript=text)


def read_manifest(folder: SourceFolder, name: str, *, with_transcripts: bool) -> dict[str, FileFacts]:
    """Facts by uri.

    Raises:
        ConfigError: unreadable, an unknown format, no column `file`, a path that leaves the folder, a file named twice.
    """
    _check_inside("source.manifest", name)
    try:
        with folder.open(name) as file:
            content = file.read()
    except OSError as error:
        raise ConfigError(f"cannot read the manifest {name} in {folder.uri}: {error.strerror or error}") from error
    facts: dict[str, FileFacts] = {}
    for row in _manifest_rows(name, content):
        if not row.get("file"):
            raise ConfigError(
                f"{name} needs a column `file` with a path in every row; found {', '.join(map(str, row))}"
            )
        uri = _check_inside(name, str(row["file"]))
        if uri in facts:
            raise ConfigError(f"{name} names {uri} twice")
        facts[uri] = _row_facts(row, with_transcripts)
    return facts


def _manifest_rows(name: str, content: bytes) -> Iterable[Mapping[str, Any]]:
    suffix = PurePosixPath(name).suffix
    try:
        if suffix == ".tsv":
            return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), dialect="excel-tab"))
        if suffix == ".jsonl":
            rows = [json.loads(line) for line in content.decode("utf-8").splitlines() if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ConfigError(f"{name}: every line must be a JSON object")
            return rows
        if suffix == ".parquet":
            rows_read: list[dict[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
            return rows_read
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError, pa.ArrowException) as error:
        raise ConfigError(f"{name} cannot be read as {suffix}: {error}") from error
    raise ConfigError(f"{name}: a manifest ends in .tsv, .jsonl or .parquet")


def _row_facts(row: Mapping[str, Any], with_transcripts: bool) -> FileFacts:
    known: dict[str, str] = {}
    extra: dict[str, Any] = {}
    for column, value in row.items():
        if value is None or value == "" or column == "file":
            continue
        if column in COLUMNS:
            known[COLUMNS[column]] = str(value).strip()
        else:
            extra[str(column)] = value
    if not with_transcripts:
        known.pop("transcript", None)
    text = json.dumps(extra, sort_keys=True, ensure_ascii=False, default=str) if extra else None
    return FileFacts(extra=text, **known)


def _check_inside(manifest: str, path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or "://" in path:
        raise ConfigError(f"{manifest} names {path!r}, but paths must be relative and stay inside the source folder")
    return str(pure)


def read_sidecars(folder: SourceFolder, names: Sequence[str], audio: Sequence[str]) -> dict[str, str]:
    """Transcripts by audio uri: X.txt or X.lab beside X.flac, else its line in a LibriSpeech *.trans.txt.

    Raises:
        ConfigError: a sidecar is not UTF-8.
    """
    present = set(names)
    listed: dict[str, str] = {}
    for name in names:
        if name.endswith(".trans.txt"):
            for line in _read_text(folder, name).splitlines():
                stem, _, text = line.partition(" ")
                listed[str(PurePosixPath(name).with_name(stem))] = text.strip()
    found: dict[str, str] = {}
    for uri in audio:
        stem = str(PurePosixPath(uri).with_suffix(""))
        sidecar = next((stem + suffix for suffix in (".txt", ".lab") if stem + suffix in present), None)
        if sidecar is not None:
            found[uri] = " ".join(_read_text(folder, sidecar).split())
        elif stem in listed:
            found[uri] = listed[stem]
    return found


def _read_text(folder: SourceFolder, name: str) -> str:
    with folder.open(name) as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the transcript {name} is not UTF-8: {error.reason} at byte {error.start}") from error
