"""What comes with audio: manifests (.tsv, .csv, .jsonl, .parquet) and sidecar transcripts. Their paths are not trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from pipeline.corpora.base import SIDECARS, Names
from pipeline.corpora.tables import RowError, first_columns, read_table, read_text, rows_with, utterance_lines
from pipeline.source.folder import SourceFolder
from schemas.config import ConfigError
from schemas.tables import RejectCode

COLUMNS = {
    "transcript": "transcript",
    "text": "transcript",
    "language": "language",
    "license": "license",
    "licence": "license",
}
"""Manifest column -> fact; every other column goes into `extra`."""


TIMED = re.compile(r"\s*([0-9]{1,12})\s+([0-9]{1,12})\s+(?=\S)")
"""How a line of labels begins: TIMIT's in samples, HTK's in 100 ns."""


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


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A row or a sidecar that cannot be used: it becomes a reject under `place`, and the rest is read."""

    place: str
    """File and line, such as "train.tsv:17"."""
    detail: str
    code: RejectCode = "bad_row"


@dataclass(kw_only=True)
class Read:
    """Facts by uri, and what could not be read."""

    facts: dict[str, FileFacts] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_manifest(folder: SourceFolder, name: str, audio: Sequence[str], *, with_transcripts: bool) -> Read:
    """Facts of the files in `audio`.

    Raises:
        ConfigError: unreadable as a whole, an unknown format, no column `file`, not one row that can be used.
    """
    try:
        _check_inside(name)
    except ValueError as error:
        raise ConfigError(f"source.manifest: {error}") from error
    names, read, named_by = Names(audio), Read(), dict[str, str]()
    for place, row in rows_with(("file",), read_table(folder, name), lambda row: _without_file(name, row)):
        if isinstance(row, RowError):
            read.problems.append(Problem(place=place, detail=row.detail))
            continue
        try:
            path = _check_inside(str(row["file"] or ""))
            uri = names.find(path)
            if uri in named_by:
                raise ValueError(f"it names {uri} for the second time, after {named_by[uri]}")
        except ValueError as error:
            read.problems.append(Problem(place=place, detail=str(error)))
            continue
        if uri is None:
            detail = f"it names {path}, which is not among the audio of {folder.uri}"
            read.problems.append(Problem(place=place, detail=detail, code="missing"))
            continue
        try:
            read.facts[uri] = _row_facts(row, with_transcripts)
            named_by[uri] = place
        except ValueError as error:
            read.problems.append(Problem(place=place, detail=str(error)))
    if not read.problems and not read.facts:
        raise ConfigError(f"{name} holds no row: a header and lines that end in a newline (\\n) are wanted")
    if read.problems and not read.facts:
        first = read.problems[0]
        raise ConfigError(f"not one row of {name} can be used; {first.place}: {first.detail}")
    return read


def _without_file(name: str, row: Mapping[str, Any]) -> ConfigError:
    return ConfigError(
        f"{name} needs a column `file` with a path in every row; found {first_columns(row)}",
        "rename the column, or set source.layout: manifest, which knows other names for it (docs/corpora.md)",
    )


def _row_facts(row: Mapping[str, Any], with_transcripts: bool) -> FileFacts:
    known: dict[str, str] = {}
    extra: dict[str, Any] = {}
    for column, value in sorted(
        row.items(), key=lambda item: item[0] != "transcript"
    ):  # before `text`, if both are there
        if value is None or value == "" or column == "file":
            continue
        if column in COLUMNS:
            if isinstance(value, list | dict):
                raise ValueError(f"its {column} is no text but a {type(value).__name__}")
            known.setdefault(COLUMNS[column], str(value).strip())
        else:
            extra[str(column)] = value
    if not with_transcripts:
        known.pop("transcript", None)
    text = json.dumps(extra, sort_keys=True, ensure_ascii=False, default=str) if extra else None
    return FileFacts(extra=text, **known)


def _check_inside(path: str) -> str:
    pure = PurePosixPath(path)
    if not path.strip():
        raise ValueError("it names no file")
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or "://" in path:
        raise ValueError(f"it names {path!r}, but paths must be relative and stay inside the source folder")
    return str(pure)


@dataclass(kw_only=True)
class Sidecars:
    """Transcripts by audio uri, the files that could not be read, and the names of all that were looked into."""

    texts: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    used: set[str] = field(default_factory=set)


def read_sidecars(folder: SourceFolder, names: Sequence[str], audio: Sequence[str]) -> Sidecars:
    """X.txt or X.lab beside X.flac, else its line in a LibriSpeech *.trans.txt, which names X or X.flac."""
    found, present = Sidecars(), Names(names)
    listed: dict[str, str] = {}
    for name in names:
        if name.endswith(".trans.txt"):
            found.used.add(name)
            try:
                for number, line in utterance_lines(folder, name):
                    if isinstance(line, RowError):
                        found.problems.append(Problem(place=line.place, detail=line.detail))
                        continue
                    stem, said = line
                    key = str(PurePosixPath(name).with_name(stem))
                    if listed.setdefault(key, said) != said:
                        detail = f"it names {stem} for the second time, with another text: the first is used"
                        found.problems.append(Problem(place=f"{name}:{number}", detail=detail))
            except ConfigError as error:
                found.problems.append(Problem(place=name, detail=str(error)))
    stems = Names(listed)
    for uri in audio:
        stem = str(PurePosixPath(uri).with_suffix(""))
        sidecar = next(filter(None, (present.find(stem + suffix) for suffix in SIDECARS)), None)
        if sidecar is None:
            if (line_of := stems.find(stem) or stems.find(uri)) is not None:
                found.texts[uri] = listed[line_of]
            continue
        found.used.add(sidecar)
        try:
            found.texts[uri] = _said(read_text(folder, sidecar))
        except ConfigError as error:
            found.problems.append(Problem(place=sidecar, detail=str(error)))
        except ValueError as error:
            found.problems.append(Problem(place=sidecar, detail=f"{sidecar}: {error}"))
    return found


def _said(content: str) -> str:
    """The text of a sidecar; TIMIT's begins with the recording's first and last sample (`0 46797 She had`).

    Raises:
        ValueError: its lines are labels with times.
    """
    lines = [line for line in content.split("\n") if line.strip()]
    timed = [match for line in lines if (match := TIMED.match(line)) and int(match[1]) < int(match[2])]
    if len(timed) == len(lines) > 1:
        raise ValueError(
            f"it holds labels with times, as of HTK ({lines[0][:40]!r}), and no text: write the text into it"
        )
    if len(timed) == len(lines) == 1 and timed[0][1] == "0" and len(timed[0][2]) >= 4:
        content = content[content.index(lines[0]) + timed[0].end() :]
    return " ".join(content.split())
