"""Layouts that are folders by speaker and book: LibriSpeech (and LibriTTS), LibriLight, MLS."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipeline.corpora.base import Corpus, CorpusRow
from pipeline.corpora.manifests import broken_row
from pipeline.corpora.tables import RowError, lines_of, read_bytes, read_text, utterance_lines
from schemas.config import ConfigError, json_object

MLS_LANGUAGES = {
    "dutch": "nl",
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "polish": "pl",
    "portuguese": "pt",
    "spanish": "es",
}


def librispeech(corpus: Corpus) -> Iterator[CorpusRow]:
    """SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac and SPEAKER-CHAPTER.trans.txt; LibriTTS's .normalized.txt beside each file."""
    texts: dict[str, tuple[str, str]] = {}
    for name in corpus.names:
        if name.endswith(".trans.txt"):
            for number, line in utterance_lines(corpus.files, name):
                if isinstance(line, RowError):
                    yield broken_row(line)
                    continue
                identity, text = line
                place = f"{name}:{number}"
                first, where = texts.setdefault(posixpath.join(posixpath.dirname(name), identity), (text, place))
                if first != text:
                    yield CorpusRow(audio="", place=place, problem=f"{identity} stands in {where} already")
    audio = corpus.audio()
    unheard = texts.keys() - {name.rpartition(".")[0] for name in audio}
    for name in audio:
        stem = name.rpartition(".")[0]
        text, place = texts.get(stem, ("", name))
        if not text and f"{stem}.normalized.txt" in corpus.present:
            place = f"{stem}.normalized.txt"
            try:
                text = read_text(corpus.files, place).strip()
            except ConfigError as error:
                yield CorpusRow(audio="", place=place, problem=str(error))
        yield CorpusRow(
            audio=name,
            place=place,
            text=text or None,
            language="en",
            speaker=PurePosixPath(name).name.replace("_", "-").split("-")[0],
            license="CC BY 4.0",
        )
    for stem in sorted(unheard):
        yield CorpusRow(audio="", place=texts[stem][1], code="missing", problem=f"there is no audio file {stem}.*")
    if not audio:
        raise ConfigError(f"{corpus.source.uri} holds no audio in SPEAKER/CHAPTER/, as LibriSpeech does")


def librilight(corpus: Corpus) -> Iterator[CorpusRow]:
    """SPEAKER/BOOK/CHAPTER.flac with CHAPTER.json beside it: speaker, book and signal-to-noise ratio; there are no texts."""
    audio = corpus.audio()
    for name in audio:
        beside = f"{name.rpartition('.')[0]}.json"
        facts: dict[str, object] = {}
        if beside in corpus.present:
            try:
                facts = json_object(read_bytes(corpus.files, beside).decode("utf-8-sig"))
            except ValueError as error:
                yield CorpusRow(audio="", place=beside, problem=f"it cannot be read as JSON: {error}")
        book = facts.get("book_meta")
        title = book.get("title") if isinstance(book, dict) else None
        extra = {key: value for key, value in (("snr", facts.get("snr")), ("book", title)) if value is not None}
        speaker = str(facts["speaker"]) if facts.get("speaker") is not None else None
        yield CorpusRow(audio=name, place=name, language="en", speaker=speaker, license="public domain", extra=extra)
    if not audio:
        raise ConfigError(f"{corpus.source.uri} holds no audio in SPEAKER/BOOK/, as LibriLight does")


def mls(corpus: Corpus) -> Iterator[CorpusRow]:
    """SPLIT/transcripts.txt of id, tab, text; SPLIT/audio/SPEAKER/BOOK/SPEAKER_BOOK_NNNNNN.flac (or .opus)."""
    tables = [name for name in corpus.names if PurePosixPath(name).name == "transcripts.txt"]
    if not tables:
        raise ConfigError(f"{corpus.source.uri} holds no transcripts.txt, which every split of MLS has")
    by_stem: dict[tuple[str, str], str] = {}
    for name in corpus.audio():
        split, _, inside = name.rpartition("/audio/") if "/audio/" in name else ("", "", name.removeprefix("audio/"))
        by_stem[split, PurePosixPath(inside).stem] = name
    for table in tables:
        split = posixpath.dirname(table)
        for number, line in lines_of(corpus.files, table):
            place = f"{table}:{number}"
            if isinstance(line, RowError):
                yield broken_row(line)
                continue
            identity, tab, text = line.partition("\t")
            audio = by_stem.get((split, identity.strip()))
            if not tab:
                yield CorpusRow(audio="", place=place, problem=f"{line[:60]!r} is not an id, a tab and a text")
            elif audio is None:
                yield CorpusRow(audio="", place=place, code="missing", problem=f"there is no audio file {identity}")
            else:
                yield CorpusRow(
                    audio=audio,
                    place=place,
                    text=text.strip() or None,
                    language=_mls_language(f"{corpus.source.uri}/{table}"),
                    speaker=identity.partition("_")[0],
                    license="CC BY 4.0",
                )


def _mls_language(path: str) -> str | None:
    """From the folder's name, such as mls_german or mls_english_opus."""
    for part in reversed(path.split("/")):
        if part.startswith("mls_"):
            return MLS_LANGUAGES.get(part.split("_")[1])
    return None
