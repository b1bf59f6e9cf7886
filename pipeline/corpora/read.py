"""From the rows of a layout to one entry per recording: what the inventory lists, and what came with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from pipeline.corpora.audiobooks import librilight, librispeech, mls
from pipeline.corpora.base import Corpus, CorpusRow, Layout
from pipeline.corpora.gigaspeech import gigaspeech
from pipeline.corpora.kaldi import kaldi
from pipeline.corpora.lhotse_sets import lhotse
from pipeline.corpora.manifests import audiofolder, common_voice, ljspeech, manifest, peoples_speech
from pipeline.corpora.nemo import nemo
from pipeline.corpora.parquet import parquet
from pipeline.corpora.tars import webdataset
from pipeline.corpora.voxpopuli import voxpopuli
from schemas.given import Given, GivenProblem, GivenSegment, GivenWord
from schemas.tables import RejectCode

LAYOUTS: dict[str, Layout] = {
    "manifest": manifest,
    "nemo": nemo,
    "common_voice": common_voice,
    "voxpopuli": voxpopuli,
    "audiofolder": audiofolder,
    "ljspeech": ljspeech,
    "peoples_speech": peoples_speech,
    "librispeech": librispeech,
    "librilight": librilight,
    "mls": mls,
    "gigaspeech": gigaspeech,
    "kaldi": kaldi,
    "lhotse": lhotse,
    "webdataset": webdataset,
    "parquet": parquet,
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A recording of a corpus before it is looked at, or a row that names none (`refused`)."""

    uri: str
    member: str | None = None
    transcript: str | None = None
    language: str | None = None
    license: str | None = None
    extra: str | None = None
    given: str | None = None
    refused: RejectCode | None = None
    detail: str | None = None


def read_corpus(corpus: Corpus) -> list[Entry]:
    """Every recording that the corpus's layout names, sorted by uri, with all that is said of it.

    Raises:
        ConfigError: the source is no corpus of this layout.
    """
    recordings: dict[str, _Recording] = {}
    entries: list[Entry] = []
    for row in LAYOUTS[corpus.source.layout](corpus):
        if row.audio:
            uri = row.audio if row.member is not None else corpus.as_listed(row.audio)
            recordings.setdefault(uri, _Recording(uri)).add(row)
        else:
            entries.append(_refused(row))
    entries += [recording.entry() for recording in recordings.values()]
    return sorted(entries, key=lambda entry: entry.uri)


def _refused(row: CorpusRow) -> Entry:
    code: RejectCode = (
        "missing" if row.code == "missing" else "decode_error" if row.code == "decode_error" else "bad_row"
    )
    return Entry(uri=row.place, refused=code, detail=row.problem)


@dataclass
class _Recording:
    """What the rows of one recording say, until all of them have been read."""

    uri: str
    whole: CorpusRow | None = None
    member: str | None = None
    recording: str = ""
    segments: list[CorpusRow] = field(default_factory=list)
    problems: list[GivenProblem] = field(default_factory=list)
    repeats: int = 0
    """How many of the problems are second rows about the whole."""
    words: list[GivenWord] = field(default_factory=list)

    def add(self, row: CorpusRow) -> None:
        self.member = self.member or row.member
        self.recording = self.recording or row.recording
        self.words += row.words
        if row.problem is not None:
            self.problems.append(GivenProblem(place=row.place, detail=row.problem))
        elif row.start is not None:
            self.segments.append(row)
        elif self.whole is not None:
            detail = f"{self.uri} has been described by {self.whole.place} already"
            self.problems.append(GivenProblem(place=row.place, detail=detail))
            self.repeats += 1
        else:
            self.whole = row

    def entry(self) -> Entry:
        given = Given(
            recording=self.recording,
            segments=[_segment(row) for row in sorted(self.segments, key=_row_order)],
            problems=self.problems,
            whole=self.whole is not None and 0 < len(self.problems) == self.repeats,
            words=sorted(self.words, key=_by_time),
        )
        facts = self.whole or next(iter(self.segments), None)
        extra = dict(self.whole.extra) if self.whole is not None else {}
        if self.whole is not None and self.whole.speaker:
            extra["speaker"] = self.whole.speaker
        return Entry(
            uri=self.uri,
            member=self.member,
            transcript=self.whole.text if self.whole is not None else None,
            language=facts.language if facts is not None else None,
            license=facts.license if facts is not None else None,
            extra=json.dumps(extra, sort_keys=True, ensure_ascii=False, default=str) if extra else None,
            given=given.dump(),
        )


def _by_time(word: GivenWord) -> tuple[int, int, int]:
    return word[3], word[1], word[2]


def _segment(row: CorpusRow) -> GivenSegment:
    assert row.start is not None
    return GivenSegment(
        place=row.place,
        start=row.start,
        end=row.end,
        channel=row.channel,
        text=row.text,
        language=row.language,
        speaker=row.speaker,
        id=row.id,
    )


def _row_order(row: CorpusRow) -> tuple[int, int, int, str]:
    return row.channel, row.start or 0, row.end if row.end is not None else 1 << 31, row.place
