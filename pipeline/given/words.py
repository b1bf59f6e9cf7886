"""Words that came with the audio: which alignment file (`source.words`) speaks of which recording."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pipeline.corpora.base import Corpus, to_channel, to_decimal, to_samples
from pipeline.corpora.manifests import matching
from pipeline.corpora.tables import RowError, lines_of, read_bytes, read_table
from pipeline.given.textgrid import SILENCE, read_textgrid
from pipeline.given.unit_rows import parse_unit_row
from schemas.config import ConfigError
from schemas.given import Given, GivenSegment, GivenWord, ctm_name, stem_of
from schemas.tables import span_of

HOP = 640
"""Samples per unit of the official LST and slamkit rows: both are of 25 Hz."""
MARKS = frozenset(label for label in SILENCE if label.startswith(("<", "[")))
"""Silence in a CTM, as Kaldi prints it with --print-silence. Without brackets it may be a word there."""


@dataclass(kw_only=True)
class GivenAlignment:
    """What one or more alignment files say of one recording."""

    place: str
    words: list[GivenWord] = field(default_factory=list)
    segments: list[GivenSegment] = field(default_factory=list)
    problem: str = ""

    def added_to(self, given: Given) -> Given:
        """The same with these words; utterances of the alignment only where the corpus gave none."""
        words = sorted([*given.words, *self.words], key=lambda word: (word[3], word[1], word[2]))
        update: dict[str, object] = {"words": words, "words_place": self.place, "words_problem": self.problem}
        if not given.segments:
            update["segments"] = self.segments
        return given.model_copy(update=update)


@dataclass(frozen=True, kw_only=True)
class Stray:
    """A statement of an alignment file that belongs to no recording of the source."""

    place: str
    detail: str


def read_alignments(corpus: Corpus, recordings: Mapping[str, Given]) -> tuple[dict[str, GivenAlignment], list[Stray]]:
    """Alignments by uri, from the files that `source.words` matches: .TextGrid, .ctm, JSON lines of official LST or slamkit.

    A TextGrid belongs to the recording of its own path without suffix, be it below another folder, or of its name where that is
    one recording's alone. A line of the others names its recording by path, by name, or by the id of an utterance, whose times
    are then its own.

    Raises:
        ConfigError: nothing matches, or a file is of another kind.
    """
    reader = _Reader(corpus, recordings)
    for pattern in corpus.source.words:
        names = [name for name in corpus.names if matching(name, pattern)]
        if not names:
            raise ConfigError(f"no file in {corpus.source.uri} matches {pattern!r} of source.words")
        for name in names:
            reader.read(name)
    return reader.found, reader.strays


class _Reader:
    def __init__(self, corpus: Corpus, recordings: Mapping[str, Given]) -> None:
        self.corpus = corpus
        self.found: dict[str, GivenAlignment] = {}
        self.strays: list[Stray] = []
        self._by_path, self._by_name = _Index(), _Index()
        self._utterances: dict[str, tuple[str, GivenSegment]] = {}
        self._ambiguous: set[str] = set()
        self._unknown: set[tuple[str, str]] = set()
        for uri, given in recordings.items():
            stem = stem_of(uri)
            member = stem.rpartition("#")[2]  # of a container; the whole name elsewhere
            paths = (uri, stem, uri.replace("#", "/"), stem.replace("#", "/"), given.recording)
            self._by_path.enter(paths, uri)
            self._by_name.enter((*paths, PurePosixPath(stem).name, PurePosixPath(member).name), uri)
            for segment in given.segments:
                if segment.id is not None:
                    other, first = self._utterances.setdefault(segment.id, (uri, segment))
                    if (other, first.start, first.channel) != (uri, segment.start, segment.channel):
                        self._ambiguous.add(segment.id)

    def read(self, name: str) -> None:
        plain = name.removesuffix(".gz").lower()
        if plain.endswith(".textgrid"):
            self._textgrid(name)
        elif plain.endswith(".ctm"):
            self._ctm(name)
        elif plain.endswith((".jsonl", ".json", ".on_the_fly")):
            self._unit_rows(name)
        else:
            raise ConfigError(f"{name}: source.words reads .TextGrid, .ctm, and .jsonl or .on_the_fly of units")

    def _of(self, name: str, place: str) -> GivenAlignment | None:
        uris = self._called(name)
        if len(uris) == 1:
            return self.found.setdefault(uris[0], GivenAlignment(place=place))
        many = "no recording of the source goes by that name"
        if uris:
            many = f"{len(uris)} recordings go by that name: name the one that is meant by its path and suffix"
        self._speaks_of(name, place, many)
        return None

    def _speaks_of(self, name: str, place: str, detail: str) -> None:
        key = (place.rpartition(":")[0] or place, name)
        if key not in self._unknown:  # said once, not for each of its words
            self._unknown.add(key)
            self.strays.append(Stray(place=place, detail=f"it speaks of {name}: {detail}"))

    def _called(self, name: str) -> list[str]:
        """The recordings of a path, else of what it is below folders of its own (`aligned/a/x` is `a/x`), else of its name."""
        folders = name.split("/")[:-1]
        below = ("/".join(name.split("/")[start:]) for start in range(len(folders)))
        by_path = next((found for path in (name, *below) if (found := self._by_path.find(path))), [])
        return by_path or self._by_name.find(PurePosixPath(name).name)

    def _textgrid(self, name: str) -> None:
        alignment = self._of(name.removesuffix(".gz").rpartition(".")[0], name)
        if alignment is None:
            return
        try:
            words, segments = read_textgrid(read_bytes(self.corpus.files, name), name)
            alignment.words += words
            alignment.segments += segments
        except ValueError as error:
            alignment.problem = f"{name}: {error}"

    def _ctm(self, name: str) -> None:
        for number, line in lines_of(self.corpus.files, name):
            if isinstance(line, RowError):
                self.strays.append(Stray(place=line.place, detail=line.detail))
                continue
            if line.lstrip().startswith(";;"):
                continue
            place = f"{name}:{number}"
            try:
                recording, channel, start, length, word, *_ = line.split()
                times = to_samples(start), to_samples(to_decimal(start) + to_decimal(length))
            except ValueError as error:
                self.strays.append(
                    Stray(place=place, detail=f"it is not `recording channel start duration word`: {error}")
                )
                continue
            if word.lower() in MARKS:
                continue
            if recording in self._utterances and not self._by_name.find(recording):
                if recording in self._ambiguous:
                    detail = "several utterances have that id: name the recording, and times from its beginning"
                    self._speaks_of(recording, place, detail)
                    continue
                uri, segment = self._utterances[recording]
                alignment = self.found.setdefault(uri, GivenAlignment(place=name))
                times = segment.start + times[0], segment.start + times[1]
                side = segment.channel
            else:
                found = self._of(recording, place)
                if found is None:
                    continue
                alignment, side = found, to_channel(channel)
            alignment.place = name
            alignment.words.append((word, *times, side))

    def _unit_rows(self, file: str) -> None:
        rows = read_table(self.corpus.files, file, kind=".jsonl")
        for place, row in rows:
            if isinstance(row, RowError):
                self.strays.append(Stray(place=place, detail=row.detail))
                continue
            try:
                name, words = _words_of(row)
            except ValueError as error:
                self.strays.append(Stray(place=place, detail=str(error)))
                continue
            alignment = self._of(name if self._called(name) else stem_of(name), place)
            if alignment is not None:
                alignment.place = file
                alignment.words += words


def _words_of(row: Mapping[str, Any]) -> tuple[str, list[GivenWord]]:
    """The recording that a row of units names, and its words on the recording's clock.

    `lst export` names it `PATH#SEGMENT`: the id of the segment says where in the recording its units begin, and how long they
    are. Other rows begin with their recordings.
    """
    parsed = parse_unit_row(row, HOP)
    name, _, identity = parsed.name.rpartition("#")
    span = span_of(identity)
    if span is None:
        name, span = parsed.name, (-1, 0, HOP * len(parsed.units))
    channel, begin, end = span
    hop = HOP // 2 if (end - begin) // (HOP // 2) == len(parsed.units) else HOP
    words = parsed.words if hop == HOP else parse_unit_row(row, hop).words
    return name, [(word, begin + start * hop, begin + stop * hop, channel) for word, start, stop in words]


class _Index:
    """Recordings by what they may be called: a name as it is, else as it looks (a Mac decomposes accents)."""

    def __init__(self) -> None:
        self._exact: dict[str, list[str]] = defaultdict(list)
        self._alike: dict[str, list[str]] = defaultdict(list)

    def enter(self, names: Iterable[str], uri: str) -> None:
        """A recording under its names, and under what they are in a CTM."""
        forms = dict.fromkeys(form for name in names for form in (name, ctm_name(name)))
        for form in forms:
            self._exact[form].append(uri)
        for form in dict.fromkeys(unicodedata.normalize("NFC", form) for form in forms if not form.isascii()):
            self._alike[form].append(uri)

    def find(self, name: str) -> list[str]:
        """The recordings of that name."""
        return self._exact.get(name) or self._alike.get(unicodedata.normalize("NFC", name), [])
