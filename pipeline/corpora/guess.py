"""Looking at a folder: which layout it seems to have, what its tables say, and what lies beside its recordings unread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pipeline.corpora.base import SIDECARS, Corpus, is_audio
from pipeline.corpora.manifests import matching
from pipeline.corpora.read import Entry, read_corpus
from pipeline.corpora.tables import TABLE_SUFFIXES
from schemas.config import ConfigError
from schemas.given import load_given
from schemas.source import Layout, Source

SIGNS: tuple[tuple[Layout, tuple[str, ...]], ...] = (
    ("lhotse", ("**/*cuts*.jsonl", "**/*recordings*.jsonl")),
    ("kaldi", ("**/wav.scp",)),
    ("gigaspeech", ("GigaSpeech.json",)),
    ("mls", ("**/transcripts.txt",)),
    ("common_voice", ("validated.tsv", "*/validated.tsv", "train.tsv")),
    ("voxpopuli", ("**/asr_*.tsv",)),
    ("ljspeech", ("metadata.csv", "*/metadata.csv")),
    ("audiofolder", ("**/metadata.csv", "**/metadata.jsonl", "**/metadata.parquet")),
    ("librispeech", ("**/*.trans.txt", "**/*.normalized.txt")),
    ("nemo", ("**/*manifest*.json", "*manifest*.jsonl")),
    ("manifest", ("manifest.*",)),
    ("peoples_speech", ("*/*.json",)),
    ("librilight", ("**/*.json",)),
    ("webdataset", ("**/*.tar",)),
    ("parquet", ("**/*.parquet",)),
)
"""What each layout is known by, the most telling first: patterns of names, one of which is enough to try it."""

UNMISTAKABLE = frozenset(("lhotse", "kaldi", "gigaspeech"))
"""Layouts whose files nobody else writes: taken also where their audio is elsewhere, for which `source.roots` is there."""


ALIGNMENTS = (".textgrid", ".ctm")
"""What alignment files end in, in small letters."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What a folder seems to be, and what is in it by its own tables."""

    layout: Layout
    sign: str
    """The file that it was recognised by; "" for a plain folder of recordings."""
    recordings: int
    texts: int
    """Recordings, or utterances, that come with a text."""
    utterances: int
    words: int
    """Recordings whose words have times."""
    refused: tuple[str, ...] = ()
    """Sentences on rows that cannot be used."""
    languages: tuple[str, ...] = ()
    """The most frequent first."""
    transcripts: str = "none"
    patterns: tuple[str, ...] = ()
    """Alignment files that `source.words` would read."""
    manifest: str | None = None
    """A table of the folder's own that is not called as usual: `source.manifest`."""
    unnamed: int = 0
    """Audio files of the folder that `manifest` does not name."""


def guess_layout(corpus: Corpus) -> Guess:
    """The first layout whose sign is there and half of whose audio is there as well; else a plain folder.

    Raises:
        ConfigError: there is no audio of any kind.
    """
    audio = corpus.audio()
    patterns = tuple(f"**/*{suffix}" for suffix in _alignments(corpus.names))
    for layout, signs in SIGNS:
        found = [name for name in corpus.names if any(matching(name, sign) for sign in signs)]
        if not found or (layout in ("webdataset", "parquet") and audio):
            continue
        entries, enough = _entries(corpus, corpus.source.with_updates(layout=layout))
        if enough or (layout in UNMISTAKABLE and entries):
            return _counted(layout, found[0], entries, patterns)
    for name in _tables(corpus.names, audio):
        entries, enough = _entries(corpus, corpus.source.with_updates(layout="manifest", manifest=name))
        if enough:
            unnamed = len(set(audio) - {entry.uri for entry in entries})
            return replace(_counted("manifest", name, entries, patterns), manifest=name, unnamed=unnamed)
    if not audio:
        raise ConfigError(
            f"{corpus.source.uri} holds no audio and no corpus that is known: docs/corpora.md lists the layouts"
        )
    beside = _beside(corpus.names, audio, SIDECARS)
    return Guess(
        layout="folder",
        sign="",
        recordings=len(audio),
        texts=beside,
        utterances=0,
        words=0,
        transcripts="sidecar" if beside else "none",
        patterns=patterns,
    )


def _tables(names: Sequence[str], audio: Sequence[str]) -> list[str]:
    """The folder's own tables that may name its recordings. Where many are called like one each, they speak of that one."""
    stems = {name.rpartition(".")[0] for name in audio}
    tables = [name for name in names if audio and "/" not in name and PurePosixPath(name).suffix in TABLE_SUFFIXES]
    beside = {name for name in tables if name.rpartition(".")[0] in stems}
    return [name for name in tables if name not in beside or len(beside) == 1]


def _entries(corpus: Corpus, source: Source) -> tuple[list[Entry], bool]:
    """What a layout reads in the folder (nothing where it is none of that layout), and whether half of that audio is there."""
    try:
        entries = read_corpus(Corpus(files=corpus.files, names=corpus.names, source=source))
    except ConfigError:
        return [], False
    present, named = set(corpus.names), [entry for entry in entries if entry.refused is None]
    there = [entry for entry in named if entry.member is not None or entry.uri in present or entry.uri[:1] == "/"]
    enough = bool(there) and len(there) * 2 >= len(named)
    return entries, enough and (source.layout != "librilight" or _librilight(there, present))


def _librilight(entries: Sequence[Entry], present: set[str]) -> bool:
    """Every recording has its own .json."""
    return all(f"{entry.uri.rpartition('.')[0]}.json" in present for entry in entries)


def _counted(layout: Layout, sign: str, entries: Sequence[Entry], patterns: tuple[str, ...]) -> Guess:
    texts = utterances = words = recordings = 0
    languages: Counter[str] = Counter()
    refused = [f"{entry.uri}: {entry.detail}" for entry in entries if entry.refused is not None]
    for entry in entries:
        if entry.refused is not None:
            continue
        given = load_given(entry.given)
        recordings += 1
        utterances += len(given.segments)
        words += bool(given.words)
        texts += bool(entry.transcript) + sum(bool(segment.text) for segment in given.segments)
        languages.update(segment.language for segment in given.segments if segment.language)
        languages.update([entry.language] if entry.language and not given.segments else [])
        refused += [f"{problem.place}: {problem.detail}" for problem in given.problems]
    return Guess(
        layout=layout,
        sign=sign,
        recordings=recordings,
        texts=texts,
        utterances=utterances,
        words=words,
        refused=tuple(refused),
        languages=tuple(name for name, _ in languages.most_common()),
        patterns=patterns,
    )


def _alignments(names: Sequence[str]) -> list[str]:
    """The suffixes of alignment files as they are written here."""
    found = {PurePosixPath(name).suffix for name in names}
    return sorted(
        (suffix for suffix in found if suffix.lower() in ALIGNMENTS),
        key=lambda suffix: (ALIGNMENTS.index(suffix.lower()), suffix),
    )


def _beside(names: Sequence[str], audio: Sequence[str], suffixes: Sequence[str]) -> int:
    """Recordings that have a file of their own name with one of the suffixes beside them."""
    present = set(names)
    return sum(any(f"{name.rpartition('.')[0]}{suffix}" in present for suffix in suffixes) for name in audio)


def with_advice(others: Counter[str], names: Sequence[str], source: Source) -> Counter[str]:
    """Counts of files that are not listed, where those that would be read under another setting say which."""
    audio = [name for name in names if is_audio(name, source)]
    advice: list[tuple[str, str]] = []
    if source.transcripts == "none":
        advice += [(suffix, "set source.transcripts: sidecar") for suffix in SIDECARS]
    if not source.words and any(others[suffix] for suffix in ALIGNMENTS):
        advice += [(suffix, f'list them in source.words: ["**/*{suffix}"]') for suffix in _alignments(names)]
    told = Counter(others)
    for suffix, remedy in advice:
        kind = suffix.lower()
        if told[kind] and (beside := _beside(names, audio, (suffix,))):
            told[f"{kind} ({beside} of {len(audio)} recordings have a {suffix} beside them: {remedy})"] = told.pop(kind)
    return +told
