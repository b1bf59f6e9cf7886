"""What every layout of a corpus offers: rows that say which audio there is, and what is said when in it."""

from __future__ import annotations

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from functools import cached_property
from pathlib import PurePosixPath
from typing import BinaryIO, Protocol

from schemas.audio import SAMPLE_RATE
from schemas.given import GivenWord
from schemas.spec import Source

MOST_SECONDS = 1 << 31
LEAST_DIGIT = -30
"""A time is read if it lies between them. Of 1e999999999 no sum can be made, and 1e-999999999 as a fraction fills the memory."""
SIDECARS = (".txt", ".TXT", ".lab", ".LAB")
"""What a text beside a recording ends in: Windows and old corpora write capitals."""
CHANNELS = "ABCDEFGH"
"""Channels by letter; others (L, R) are no place in an order."""


class CorpusFolder(Protocol):
    """The folder that holds the corpus, local or on object storage."""

    uri: str
    root: str
    is_local: bool

    def open(self, uri: str) -> BinaryIO:
        """A seekable binary file.

        Raises:
            OSError: it cannot be opened.
        """
        ...

    def open_ranged(self, uri: str) -> BinaryIO:
        """The same, for reading a little here and there: what is not asked for is not fetched.

        Raises:
            OSError: it cannot be opened.
        """
        ...


class Names:
    """Names looked up as they are, else as they look: a Mac decomposes accents (NFD), a manifest composes them (NFC)."""

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = set(names)
        self._alike: dict[str, list[str]] = {}
        for name in sorted(self._exact):
            self._alike.setdefault(unicodedata.normalize("NFC", name), []).append(name)

    def find(self, name: str) -> str | None:
        """The one name that is meant, or None: there is none, or there are two that look like it."""
        if name in self._exact:
            return name
        alike = self._alike.get(unicodedata.normalize("NFC", name), [])
        return alike[0] if len(alike) == 1 else None


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What a layout reads: the folder, the names of all files in it (sorted), and what the spec says of the source."""

    files: CorpusFolder
    names: Sequence[str]
    source: Source
    passed_over: Counter[str] = field(default_factory=Counter)
    """What a layout came upon and gives no row for, by what it is: it is counted as not listed."""

    @cached_property
    def present(self) -> frozenset[str]:
        """The names, to look one up."""
        return frozenset(self.names)

    @cached_property
    def _alike(self) -> Names:
        return Names(self.names)

    def as_listed(self, uri: str) -> str:
        """The file that a table means by this uri: where there is none, the one whose name looks the same."""
        if uri.isascii() or uri in self.present:
            return uri
        return self._alike.find(uri) or uri

    def audio(self) -> list[str]:
        """The names that end as audio does."""
        return [name for name in self.names if is_audio(name, self.source)]


@dataclass(frozen=True, kw_only=True)
class CorpusRow:
    """One statement of a corpus: this audio exists, and this is said in it (from `start` to `end`, where they are given)."""

    audio: str
    """The uri of the audio, from `Corpus` paths by `audio_uri`; "" where the row names none that can be used."""
    place: str
    """File and line that says so, such as "train.jsonl:17"."""
    member: str | None = None
    """Where in the file `audio` lies, if that file is a container: see pipeline/source/members.py."""
    start: int | None = None
    """16 kHz samples. None: the row speaks of the whole file."""
    end: int | None = None
    """16 kHz samples; None after a start: to the end of the file."""
    channel: int = -1
    text: str | None = None
    language: str | None = None
    speaker: str | None = None
    license: str | None = None
    words: tuple[GivenWord, ...] = ()
    """Times from the start of the file."""
    id: str | None = None
    """What the corpus calls the utterance."""
    recording: str = ""
    """What it calls the recording, where that is not its path."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Whatever else the row says, JSON values."""
    problem: str | None = None
    """Why this row cannot be used: a sentence."""
    code: str = "bad_row"
    """The reject code that goes with `problem`."""


class Layout(Protocol):
    """How a corpus lies on disk, as a function from its files to rows, in no particular order.

    What cannot be used is a row with a `problem`, and the rest is read; an exception means that nothing can be.
    """

    def __call__(self, corpus: Corpus) -> Iterator[CorpusRow]:
        """Every statement of the corpus.

        Raises:
            ConfigError: this is not a corpus of this layout; the message says what was looked for.
        """
        ...


def is_audio(name: str, source: Source) -> bool:
    """Whether a name ends in one of the source's suffixes, in any case."""
    return PurePosixPath(name).suffix.lower() in {suffix.lower() for suffix in source.suffixes}


def suffix_of(name: str) -> str:
    """How a file is counted that is not listed: by its suffix in small letters."""
    return PurePosixPath(name).suffix.lower() or "without a suffix"


def to_decimal(seconds: object) -> Decimal:
    """A time in seconds as it is written ("12.345", 12.345), without binary rounding.

    Raises:
        ValueError: it is no number, not finite, negative, or beyond any clock's.
    """
    try:
        value = Decimal(str(seconds).strip())
    except InvalidOperation:
        raise ValueError(f"{seconds!r} is not a time in seconds") from None
    if not value.is_finite() or value < 0:
        raise ValueError(f"{seconds!r} is not a time in seconds")
    if value >= MOST_SECONDS:
        raise ValueError(f"{seconds!r} seconds is longer than any recording")
    return value if value.adjusted() > LEAST_DIGIT else Decimal(0)


def to_samples(seconds: object) -> int:
    """A time in seconds as a number of 16 kHz samples, to the nearest; exact for times of up to 1/16 ms.

    Raises:
        ValueError: it is no number, not finite, negative, or beyond 37 hours (what an int32 of samples holds).
    """
    value = (to_decimal(seconds) * SAMPLE_RATE).to_integral_value(ROUND_HALF_EVEN)
    if value >= 1 << 31:
        raise ValueError(f"{seconds!r} seconds is longer than any recording")
    return int(value)


def to_channel(name: str) -> int:
    """Which channel a table of Kaldi's or NIST's means: A, B, C ... or 1, 2, 3 ...; -1 where its name is none of them."""
    if name.isascii() and name.isdigit() and len(name) <= 3:
        return int(name) - 1
    return CHANNELS.find(name.upper()) if len(name) == 1 else -1


def audio_uri(corpus: Corpus, base: str, path: str) -> str:
    """The uri of a path that a corpus names, written from the folder `base` of the source ("" for its root).

    Relative to the source where it lies inside, absolute where it lies under one of `source.roots`.

    Raises:
        ValueError: it leads anywhere else; corpora are not trusted with paths.
    """
    path = path.strip()
    if not path or "\0" in path:
        raise ValueError("it names no audio")
    if "://" not in path and not path.startswith("/"):
        if "\\" in path:
            raise ValueError(
                f"its path {path!r} is written as on Windows: write it with / and from the source folder on"
            )
        inside = posixpath.normpath(posixpath.join(base, path))
        if inside.split("/")[0] != ".." and inside != ".":
            return inside
        raise ValueError(f"its path {path!r} leaves the source folder")
    scheme, separator, rest = path.rpartition("://")
    absolute = scheme + separator + posixpath.normpath(rest)
    for root in (corpus.source.uri, *corpus.source.roots):
        root = root.rstrip("/")
        if absolute.startswith(root + "/"):
            return absolute[len(root) + 1 :] if root == corpus.source.uri.rstrip("/") else absolute
    raise ValueError(
        f"its path {path!r} lies outside of the source folder: where that is meant, add the folder to source.roots"
    )
