"""Audio in Parquet files, as Hugging Face's data sets keep it: a column of {bytes, path} (or of bytes) beside the texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpora.base import Corpus, CorpusRow, audio_uri
from pipeline.corpora.manifests import facts_of, manifest_names
from schemas.config import ConfigError
from schemas.storage.retry import asked_again, time_mends


def parquet(corpus: Corpus) -> Iterator[CorpusRow]:
    """Every .parquet: a recording for each row, named by its number. The audio column is not read here.

    A file without such a column (a table of speakers beside the audio) is counted, unless no file has one.
    """
    names = manifest_names(corpus, ("**/*.parquet",))
    silent: list[ConfigError] = []
    for name in names:
        try:
            rows = asked_again(name, lambda name=name: list(_rows(corpus, name)))  # type: ignore[misc]
        except ConfigError as error:
            silent.append(error)
            continue
        yield from rows
    if silent and len(silent) == len(names):
        raise silent[0]
    corpus.passed_over[".parquet without a column of audio"] += len(silent)


def _rows(corpus: Corpus, name: str) -> Iterator[CorpusRow]:
    """The rows of a file; what is wrong with it comes as the last one."""
    try:
        with corpus.files.open_ranged(name) as file:
            yield from _file(corpus, name, pq.ParquetFile(file))
    except (pa.ArrowException, OSError) as error:
        if not corpus.files.is_local and time_mends(name, error):
            raise
        detail = f"{name} cannot be read as Parquet, fetch it again: {error}"
        yield CorpusRow(audio="", place=name, code="decode_error", problem=detail)


def _file(corpus: Corpus, name: str, file: Any) -> Iterator[CorpusRow]:
    schema: pa.Schema = file.schema_arrow
    column = _audio_column(name, schema)
    others = [field.name for field in schema if field.name != column]
    first = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        facts = file.read_row_group(group, columns=others).to_pylist() if others else [{}] * rows
        paths = _paths(file, group, column)
        for index, row in enumerate(facts):
            uri = f"{name}#{first + index:08d}"
            if paths is None:
                yield facts_of(row, audio=uri, member=f"parquet:{group}:{index}:{column}", place=uri)
                continue
            try:
                yield facts_of(row, audio=audio_uri(corpus, "", paths[index] or ""), place=uri)
            except ValueError as error:
                yield CorpusRow(audio="", place=uri, code="missing", problem=f"it holds no audio bytes, and {error}")
        first += rows


def _paths(file: Any, group: int, column: str) -> list[str | None] | None:
    """The paths beside the bytes, where a row group has no bytes at all (`datasets` saves local files so); else None."""
    metadata = file.metadata.row_group(group)
    chunks = {metadata.column(index).path_in_schema: metadata.column(index) for index in range(metadata.num_columns)}
    held, path = chunks.get(f"{column}.bytes"), f"{column}.path"
    if held is None or path not in chunks or not held.is_stats_set or held.statistics.null_count != metadata.num_rows:
        return None
    return [row["path"] for row in file.read_row_group(group, columns=[path])[column].to_pylist()]


def _audio_column(name: str, schema: pa.Schema) -> str:
    """The first column that is a struct with `bytes`, or else the first that is of bytes.

    Raises:
        ConfigError: there is none; the message lists what the file has.
    """
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
    for field in schema:
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            return str(field.name)
    found = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise ConfigError(
        f"{name} has no column of audio: looked for a struct with `bytes` or a column of bytes; it has {found}"
    )
