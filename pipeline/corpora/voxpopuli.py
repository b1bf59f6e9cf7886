"""VoxPopuli: utterances that its own get_asr_data has cut, or the sessions as they are downloaded, with the times of theirs."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from pipeline.corpora.base import Corpus, CorpusRow, audio_uri, to_samples
from pipeline.corpora.manifests import broken_row, facts_of, manifest_names, row_of, unknown_columns, with_license
from pipeline.corpora.tables import RowError, read_table

LICENSE = "CC0 1.0"


def voxpopuli(corpus: Corpus) -> Iterator[CorpusRow]:
    """Both of the corpus's tables, told apart by their columns.

    transcribed_data/LANG/asr_SPLIT.tsv with LANG/YEAR/ID.ogg, as get_asr_data writes them; or, before it has run,
    asr_LANG.tsv.gz with raw_audios/LANG/YEAR/SESSION_LANG.ogg, whose rows have `session_id`, `start_time` and `end_time`.
    """
    sessions = _Sessions(corpus)
    for name in manifest_names(corpus, ("asr_*.tsv", "*/asr_*.tsv", "**/asr_*.tsv")):
        folder = posixpath.dirname(name)
        for place, row in read_table(corpus.files, name):
            if isinstance(row, RowError):
                yield broken_row(row)
                continue
            if len(row) == 1 and "|" in next(iter(row)):  # the annotations are separated by |
                ((header, line),) = row.items()
                row = dict(zip(header.split("|"), line.split("|"), strict=False))
            if "session_id" in row:
                yield sessions.row(name, place, row)
            else:
                yield _cut_row(corpus, name, folder, place, row)


def _cut_row(corpus: Corpus, name: str, folder: str, place: str, row: Mapping[str, Any]) -> CorpusRow:
    identity = str(row.get("id") or row.get("id_") or "")
    if not identity and not {"id", "id_"} & row.keys():
        raise unknown_columns(name, row, "the id of an utterance", ("id", "id_"))
    if not identity:
        return CorpusRow(audio="", place=place, problem="its id is empty")
    merged = {
        **row,
        "path": f"{identity[:4]}/{identity}.ogg",
        "text": row.get("normalized_text") or row.get("normed_text") or row.get("raw_text"),
        "language": PurePosixPath(folder).name or None,
        **dict.fromkeys(("normalized_text", "id", "id_")),
    }
    return with_license(row_of(corpus, folder, place, merged), LICENSE)


class _Sessions:
    """The long recordings by the session's name: its file ends in _original or in the language that is spoken in it."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._files: dict[tuple[str, str], str] = {}
        for name in corpus.audio():
            session, _, suffix = PurePosixPath(name).stem.rpartition("_")
            self._files[session, suffix] = name

    def row(self, table: str, place: str, row: Mapping[str, Any]) -> CorpusRow:
        session = str(row["session_id"])
        language = _language(table)
        file = next(
            (self._files[key] for key in ((session, language), (session, "original")) if key in self._files), None
        )
        if file is None:
            return CorpusRow(
                audio="", place=place, code="missing", problem=f"there is no audio file {session}_{language}.*"
            )
        try:
            uri = audio_uri(self._corpus, "", file)
            start, end = to_samples(row["start_time"]), to_samples(row["end_time"])
        except (KeyError, ValueError) as error:
            return CorpusRow(audio=file, place=place, problem=f"it needs start_time and end_time in seconds: {error}")
        text = row.get("normed_text") or row.get("original_text")
        facts = facts_of({"text": text, "speaker_id": row.get("speaker_id")}, audio=uri, place=place)
        return replace(facts, start=start, end=end, language=language or None, license=LICENSE, id=row.get("id_"))


def _language(table: str) -> str:
    """Of asr_en.tsv.gz: en."""
    match = re.match(r"asr_([a-z]{2,3})\.", PurePosixPath(table).name)
    return match[1] if match else ""
