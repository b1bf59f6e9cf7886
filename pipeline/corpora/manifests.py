"""Layouts with a row per utterance: manifests, Common Voice, AudioFolder, LJSpeech, People's Speech."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from pipeline.corpora.base import Corpus, CorpusRow, audio_uri, to_decimal, to_samples
from pipeline.corpora.tables import TABLE_SUFFIXES, RowError, first_columns, lines_of, read_table, rows_with
from schemas.config import ConfigError

AUDIO = ("audio_filepath", "file", "file_name", "path", "filename", "audio_path", "wav_filename", "wav", "audio")
TEXT = (
    "text",
    "transcript",
    "transcription",
    "sentence",
    "normalized_text",
    "raw_text",
    "label",
)
OFFSET = ("offset", "start", "start_time", "begin_time")
DURATION = ("duration",)
END = ("end", "end_time")
LANGUAGE = ("language", "lang", "locale")
SPEAKER = ("speaker", "speaker_id", "client_id", "spk_id")
LICENSE = ("license", "licence")
"""Columns by what they mean, the first that a table has is taken: the words of the corpora that this project knows."""
COMMON_VOICE = (("validated.tsv",), ("train.tsv", "dev.tsv", "test.tsv"), ("*/validated.tsv",))
ROLES = (AUDIO, TEXT, OFFSET, DURATION, END, LANGUAGE, SPEAKER, LICENSE)


def manifest(corpus: Corpus) -> Iterator[CorpusRow]:
    """`source.manifest` (a name or a pattern) chooses the files; paths are relative to the source folder."""
    for name in manifest_names(corpus, *((f"manifest{suffix}",) for suffix in TABLE_SUFFIXES)):
        yield from table_rows(corpus, name, base="")


def common_voice(corpus: Corpus) -> Iterator[CorpusRow]:
    """clips/*.mp3 and validated.tsv (or the .tsv that `source.manifest` names) with `path` and `sentence`."""
    for name in manifest_names(corpus, *COMMON_VOICE):
        clips = posixpath.join(posixpath.dirname(name), "clips")
        for row in table_rows(corpus, name, base=clips):
            yield with_license(row, license="CC0 1.0")


def audiofolder(corpus: Corpus) -> Iterator[CorpusRow]:
    """Hugging Face's AudioFolder: metadata.csv, .jsonl or .parquet beside the audio, with `file_name`."""
    names = [
        name
        for name in corpus.names
        if PurePosixPath(name).name in ("metadata.csv", "metadata.jsonl", "metadata.parquet")
    ]
    if corpus.source.manifest is not None:
        names = manifest_names(corpus, ())
    if not names:
        raise ConfigError(
            f"{corpus.source.uri} holds no metadata.csv, .jsonl or .parquet, which an audiofolder has beside its audio"
        )
    for name in names:
        yield from table_rows(corpus, name, base=posixpath.dirname(name))


def ljspeech(corpus: Corpus) -> Iterator[CorpusRow]:
    """metadata.csv of id|text|normalised text, without a header and without quotes; wavs/ID.wav."""
    for name in manifest_names(corpus, ("metadata.csv", "*/metadata.csv")):
        folder = posixpath.join(posixpath.dirname(name), "wavs")
        for number, line in lines_of(corpus.files, name):
            place = f"{name}:{number}"
            if isinstance(line, RowError):
                yield broken_row(line)
                continue
            identity, *texts = line.split("|")
            if not texts:
                yield CorpusRow(audio="", place=place, problem=f"{line[:60]!r} is not id|text|normalised text")
                continue
            said = next(
                (text for text in reversed(texts) if text.strip()), None
            )  # the normalised one may be left empty
            row = {"path": f"{identity.strip()}.wav", "text": said, "language": "en", "license": "public domain"}
            yield row_of(corpus, folder, place, row)


def peoples_speech(corpus: Corpus) -> Iterator[CorpusRow]:
    """PART.json of JSON lines, each a document whose `training_data` has lists of name, label, duration_ms; audio in PART/."""
    for name in manifest_names(corpus, ("*/*.json", "*.json", "**/*manifest*.jsonl")):
        folder = name.removesuffix(".gz").rpartition(".")[0]
        folder = folder if any(other.startswith(folder + "/") for other in corpus.names) else posixpath.dirname(name)
        for place, row in read_table(corpus.files, name):
            if isinstance(row, RowError):
                yield broken_row(row)
                continue
            data = row.get("training_data")
            if (
                not isinstance(data, dict)
                or not all(isinstance(data.get(column), list) for column in ("name", "label"))
                or len(data["name"]) != len(data["label"])
            ):
                found = first_columns(data if isinstance(data, dict) else row)
                detail = f"it needs `training_data` with equally long lists `name` and `label`; found {found}"
                yield CorpusRow(audio="", place=place, problem=detail)
                continue
            for path, text in zip(data["name"], data["label"], strict=True):
                yield row_of(
                    corpus,
                    folder,
                    place,
                    {"path": path, "text": text, "language": "en", "identifier": row.get("identifier")},
                )


def manifest_names(corpus: Corpus, *usual: Sequence[str]) -> list[str]:
    """The manifests: what the pattern `source.manifest` matches, else what the first of the usual groups of patterns does.

    Raises:
        ConfigError: there is none.
    """
    if corpus.source.manifest in corpus.present:  # first, for a name may hold a bracket
        return [corpus.source.manifest]
    groups = list(usual) if corpus.source.manifest is None else [(corpus.source.manifest,)]
    for group in groups:
        if found := [name for name in corpus.names if any(matching(name, pattern) for pattern in group)]:
            return found
    wanted = " or ".join(pattern for group in groups for pattern in group)
    raise ConfigError(f"{corpus.source.uri} holds no {wanted}: name the corpus's table with source.manifest")


def matching(name: str, pattern: str) -> bool:
    """Whether a name, or a name and .gz, matches a pattern: `*` stays within a folder, `**/` is any number of them."""
    if name == pattern:  # it may hold a bracket
        return True
    for suffix in ("", ".gz"):
        if "**/" in pattern:
            if fnmatch(name, pattern.replace("**/", "*") + suffix):
                return True
        elif name.count("/") == pattern.count("/") and fnmatch(name, pattern + suffix):
            return True
    return False


def rows_with_audio(corpus: Corpus, name: str) -> Iterator[CorpusRow | tuple[str, dict[str, Any]]]:
    """(place, row) of a table that names audio, and what cannot be read of it as a row of the corpus with its problem.

    Raises:
        ConfigError: no column names the audio; the message lists what was looked for and what there is.
    """
    rows = rows_with(AUDIO, read_table(corpus.files, name), lambda row: unknown_columns(name, row, "the audio", AUDIO))
    for place, row in rows:
        yield broken_row(row) if isinstance(row, RowError) else (place, row)


def table_rows(corpus: Corpus, name: str, base: str) -> Iterator[CorpusRow]:
    """The rows of a table whose columns have one of the usual names; paths are relative to `base`.

    Raises:
        ConfigError: no column names the audio; the message lists what was looked for and what there is.
    """
    for found in rows_with_audio(corpus, name):
        yield found if isinstance(found, CorpusRow) else row_of(corpus, base, *found)


def row_of(corpus: Corpus, base: str, place: str, row: Mapping[str, Any]) -> CorpusRow:
    """A row of a table as a statement; what cannot be understood makes it a problem with its place."""
    path = _first(row, AUDIO)
    try:
        if not isinstance(path, str):
            raise ValueError("it names no audio")
        uri = audio_uri(corpus, base, path)
    except ValueError as error:
        return CorpusRow(audio="", place=place, problem=str(error))
    return timed_row(row, audio=uri, place=place)


def timed_row(row: Mapping[str, Any], *, audio: str, place: str, member: str | None = None) -> CorpusRow:
    """A row about this audio, with its times; what cannot be understood of them makes it a problem."""
    try:
        start, end = _times(row)
    except ValueError as error:
        return CorpusRow(audio=audio, member=member, place=place, problem=str(error))
    return replace(facts_of(row, audio=audio, member=member, place=place), start=start, end=end)


def facts_of(row: Mapping[str, Any], *, audio: str, place: str, member: str | None = None) -> CorpusRow:
    """Text, language, speaker and licence out of the columns that usually hold them; the rest becomes `extra`."""
    return CorpusRow(
        audio=audio,
        place=place,
        member=member,
        text=_text(_first(row, TEXT)),
        language=_text(_first(row, LANGUAGE)),
        speaker=_text(_first(row, SPEAKER)),
        license=_text(_first(row, LICENSE)),
        extra={
            str(column): value
            for column, value in row.items()
            if value is not None and value != "" and not any(column in role for role in ROLES)
        },
    )


def _times(row: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """[start, end) in samples. A duration without an offset only repeats how long the file is."""
    offset, duration, end = (_first(row, role) for role in (OFFSET, DURATION, END))
    if offset is None:
        return None, None
    if end is not None:
        return to_samples(offset), to_samples(end)
    if duration is None:
        return to_samples(offset), None
    return to_samples(offset), to_samples(to_decimal(offset) + to_decimal(duration))


def _first(row: Mapping[str, Any], columns: Sequence[str]) -> Any:
    return next((row[column] for column in columns if row.get(column) not in (None, "")), None)


def _text(value: Any) -> str | None:
    """A word or a number; a list or an object in a text's place is none."""
    return str(value).strip() or None if isinstance(value, str | int | float) else None


def broken_row(error: RowError) -> CorpusRow:
    """A row that cannot be read, as a problem."""
    return CorpusRow(audio="", place=error.place, problem=error.detail)


def with_license(row: CorpusRow, license: str) -> CorpusRow:
    """The row, under the corpus's licence where it states none itself."""
    return row if row.license or row.problem else replace(row, license=license)


def unknown_columns(name: str, row: Mapping[str, Any], what: str, columns: Sequence[str]) -> ConfigError:
    """What was looked for, and what there is."""
    return ConfigError(f"{name} has no column for {what}: looked for {', '.join(columns)}; it has {first_columns(row)}")
