"""GigaSpeech: one JSON file of long recordings, each with the times and texts of its utterances."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipeline.corpora.base import Corpus, CorpusRow, audio_uri, to_samples
from pipeline.corpora.manifests import manifest_names
from pipeline.corpora.tables import read_bytes
from schemas.config import ConfigError, json_object

PUNCTUATION = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
NOT_SPEECH = frozenset(("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"))
TAG = re.compile(r"\s*(<[A-Z]+>)")


def gigaspeech(corpus: Corpus) -> Iterator[CorpusRow]:
    """GigaSpeech.json with `audios`, each with `path` and `segments` of begin_time, end_time, text_tn. It is read whole."""
    for name in manifest_names(corpus, ("GigaSpeech.json",), ("*.json",)):
        try:
            document = json_object(read_bytes(corpus.files, name).decode("utf-8-sig"))
        except ValueError as error:
            raise ConfigError(f"{name} cannot be read as JSON: {error}") from error
        if not isinstance(document.get("audios"), list):
            raise ConfigError(f"{name} has no list `audios`, as GigaSpeech.json does")
        for number, audio in enumerate(document["audios"], start=1):
            yield from _segments(corpus, f"{name}#audios[{number}]", audio, document.get("language"))


def _segments(corpus: Corpus, place: str, audio: Any, language: str | None) -> Iterator[CorpusRow]:
    try:
        uri = audio_uri(corpus, "", str(audio["path"]))
        segments = list(audio["segments"])
    except (KeyError, TypeError, ValueError) as error:
        yield CorpusRow(audio="", place=place, problem=f"it needs `path` and `segments`: {error}")
        return
    extra = {key: audio[key] for key in ("aid", "title", "category", "source") if audio.get(key) is not None}
    yield CorpusRow(audio=uri, place=place, language=_code(language), extra=extra)
    for number, segment in enumerate(segments, start=1):
        where = f"{place}.segments[{number}]"
        try:
            start, end = to_samples(segment["begin_time"]), to_samples(segment["end_time"])
            if not isinstance(segment["text_tn"], str):
                raise ValueError(f"text_tn is {segment['text_tn']!r}")
            text = plain_text(segment["text_tn"])
        except (KeyError, TypeError, ValueError) as error:
            yield CorpusRow(audio=uri, place=where, problem=f"it needs begin_time, end_time and text_tn: {error}")
            continue
        if text is None:
            continue  # the corpus marks music, noise and silence so that they are left out
        speaker = segment.get("speaker")
        yield CorpusRow(
            audio=uri,
            place=where,
            start=start,
            end=end,
            text=text,
            id=str(segment["sid"]) if segment.get("sid") is not None else None,
            speaker=None if speaker in (None, "N/A") else str(speaker),
        )


def plain_text(tagged: str) -> str | None:
    """The text with signs for its tags (<COMMA> and the like); None for what the corpus marks as no speech."""
    if tagged.strip() in NOT_SPEECH:
        return None
    return TAG.sub(lambda match: PUNCTUATION.get(match[1], " "), tagged).strip()


def _code(language: object) -> str | None:
    return language.lower()[:2] if isinstance(language, str) and language else None
