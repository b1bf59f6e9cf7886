"""Audio in tar files: WebDataset shards (Emilia, YODAS). Members are read by offset, never unpacked; names are only labels."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from pipeline.corpora.base import Corpus, CorpusFolder, CorpusRow, is_audio, suffix_of, to_samples
from pipeline.corpora.manifests import facts_of, manifest_names
from pipeline.corpora.tables import AS_UTF8
from schemas.config import json_object
from schemas.storage.retry import asked_again, time_mends

MAX_SIDECAR = 1 << 24
"""Bytes: no transcript is longer, and a member that claims to be is not read."""
SIDECARS = (".json", ".txt")
PIECE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """A regular file of a tar: where its bytes lie."""

    name: str
    offset: int
    size: int
    content: bytes | None = None
    """Of .json and .txt members."""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What ends or mars a tar: the member's name, or "" for the tar as a whole."""

    name: str
    detail: str


def members(files: CorpusFolder, tar: str) -> Iterator[TarMember | Damage]:
    """The regular files of a tar in order; only headers and sidecars are read. A damaged tar gives what is before the damage.

    Raises:
        StorageError: the storage did not answer for minutes; a tar cut short there would be recordings that are gone.
    """
    yield from asked_again(tar, lambda: list(_members(files, tar)))


def _members(files: CorpusFolder, tar: str) -> Iterator[TarMember | Damage]:
    count = 0
    try:
        with files.open_ranged(tar) as file, tarfile.open(fileobj=file, mode="r:") as opened:
            size = file.seek(0, 2)
            for info in opened:
                name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                count += 1
                if info.isdir():
                    continue
                if not info.isreg() or info.issparse():
                    yield Damage(
                        name=name, detail="it is a link or a device, not a file: nothing outside of the tar is read"
                    )
                elif info.offset_data + info.size > size:
                    yield Damage(name=name, detail="the tar ends within it: fetch the tar again")
                else:
                    content = None
                    if name.lower().endswith(SIDECARS) and info.size <= MAX_SIDECAR:
                        file.seek(info.offset_data)
                        content = file.read(info.size)
                    yield TarMember(name=name, offset=info.offset_data, size=info.size, content=content)
            if why := _after_the_last(file, opened.offset, size):
                yield Damage(
                    name="", detail=f"{tar} {why} after {count} members: what else it holds is lost; fetch it again"
                )
    except tarfile.TarError as error:
        what = f"{tar} is damaged or cut short after {count} members: fetch it again ({error})"
        if count == 0:
            what = f"{tar} cannot be read as a tar ({error}); a compressed one must be made a plain .tar first (gunzip, zstd -d)"
        yield Damage(name="", detail=what)
    except OSError as error:
        if not files.is_local and time_mends(tar, error):
            raise
        yield Damage(name="", detail=f"{tar} cannot be read: {error}")


def _after_the_last(file: BinaryIO, end: int, size: int) -> str:
    """What is wrong with a tar behind the last member that tarfile reads, which stops in silence at whatever is no header."""
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if not block:
        return "" if end > size else "is cut short: no blocks of zeros end it"
    if any(block):
        return "is damaged: no header begins"
    while piece := file.read(PIECE):
        if any(piece):
            return "has another tar joined to it, or is damaged: bytes follow the blocks that end it"
    return ""


@dataclass
class _Sidecar:
    """A .json or .txt member of a sample."""

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    """Why it cannot be read: its sample's audio goes on without it."""


@dataclass
class _Sample:
    """What lies under one key. Several audio are channels, qualities, or recordings whose names have dots."""

    audio: list[TarMember] = field(default_factory=list)
    sidecars: list[_Sidecar] = field(default_factory=list)

    def recordings(self, key: str) -> Iterator[tuple[TarMember, dict[str, Any], list[str]]]:
        """(audio, facts, problems) of each: from the sidecars of the key, and before them from those of its own whole name.

        `2024.01.05.json` speaks of `2024.01.05.flac` and not of `2024.01.06.flac`, though both have the key `2024`.
        """
        own: dict[str, list[_Sidecar]] = {_stem(audio.name): [] for audio in self.audio if _stem(audio.name) != key}
        shared: list[_Sidecar] = []
        for sidecar in self.sidecars:
            own.get(_stem(sidecar.name), shared).append(sidecar)
        common = _merged(shared)
        for audio in self.audio:
            mine = own.get(_stem(audio.name), [])
            yield audio, common | _merged(mine), [it.problem for it in (*shared, *mine) if it.problem]


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _merged(sidecars: list[_Sidecar]) -> dict[str, Any]:
    """All that they say; of two texts a .json's, and the first .txt's."""
    facts: dict[str, Any] = {}
    for sidecar in sidecars:
        facts = sidecar.facts | facts if sidecar.name.lower().endswith(".txt") else facts | sidecar.facts
    return facts


def webdataset(corpus: Corpus) -> Iterator[CorpusRow]:
    """Every .tar: KEY.flac (or any of `source.suffixes`), KEY.json or KEY.txt; its JSON may list `segments` with times."""
    for tar in manifest_names(corpus, ("**/*.tar", "**/*.tgz", "**/*.tar.zst")):
        samples: dict[str, _Sample] = {}
        for member in members(corpus.files, tar):
            if isinstance(member, Damage):
                place = f"{tar}#{member.name}" if member.name else tar
                yield CorpusRow(audio="", place=place, code="decode_error", problem=member.detail)
                continue
            _take(corpus, samples, member)
        for key, sample in samples.items():
            if not sample.audio:
                corpus.passed_over.update(f"{suffix_of(it.name)} in tars without audio" for it in sample.sidecars)
            for audio, facts, problems in sample.recordings(key):
                yield from _rows(tar, audio, facts, problems)


def _take(corpus: Corpus, samples: dict[str, _Sample], member: TarMember) -> None:
    """Put a member into the sample of its key: the name up to the first dot behind the last slash."""
    folder, slash, base = member.name.rpartition("/")
    sample = samples.setdefault(folder + slash + base.partition(".")[0], _Sample())
    if is_audio(member.name, corpus.source):
        sample.audio.append(member)
    elif member.content is None:
        corpus.passed_over[f"{suffix_of(member.name)} in tars"] += 1
    else:
        sample.sidecars.append(_sidecar(member.name, member.content))


def _sidecar(name: str, content: bytes) -> _Sidecar:
    try:
        text = content.decode("utf-8-sig")
        return _Sidecar(name, {"text": text} if name.lower().endswith(".txt") else json_object(text))
    except UnicodeDecodeError as error:
        return _Sidecar(name, problem=f"{name} is not UTF-8: {error.reason} at byte {error.start}: {AS_UTF8}")
    except ValueError as error:
        return _Sidecar(name, problem=f"{name}: {error}")


def _rows(tar: str, audio: TarMember, facts: dict[str, Any], problems: list[str]) -> Iterator[CorpusRow]:
    uri = f"{tar}#{audio.name}"
    place = f"tar:{audio.offset}:{audio.size}"
    for problem in problems:
        yield CorpusRow(audio=uri, member=place, place=uri, problem=problem)
    segments = facts.get("segments")
    whole = {name: value for name, value in facts.items() if name != "segments"}
    yield facts_of(whole, audio=uri, member=place, place=uri)
    for number, segment in enumerate(segments if isinstance(segments, list) else [], start=1):
        where = f"{uri}.segments[{number}]"
        try:
            start, end = to_samples(segment["start"]), to_samples(segment["end"])
            said = facts_of(segment, audio=uri, member=place, place=where)
            yield CorpusRow(
                audio=uri,
                member=place,
                place=where,
                start=start,
                end=end,
                text=said.text,
                language=said.language,
                speaker=said.speaker,
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            yield CorpusRow(audio=uri, member=place, place=where, problem=f"it needs start, end and text: {error}")
