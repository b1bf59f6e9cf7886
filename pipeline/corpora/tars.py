"""Audio in tar files: WebDataset shards (Emilia, YODAS). Members are read by offset, never unpacked; names are only labels."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
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
class _Sample:
    audio: TarMember | None = None
    sidecars: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def webdataset(corpus: Corpus) -> Iterator[CorpusRow]:
    """Every .tar: KEY.flac (or any of `source.suffixes`), KEY.json or KEY.txt; its JSON may list `segments` with times."""
    for tar in manifest_names(corpus, ("**/*.tar", "**/*.tgz", "**/*.tar.zst")):
        samples: dict[str, list[_Sample]] = {}
        for member in members(corpus.files, tar):
            if isinstance(member, Damage):
                place = f"{tar}#{member.name}" if member.name else tar
                yield CorpusRow(audio="", place=place, code="decode_error", problem=member.detail)
                continue
            _take(corpus, samples, member)
        for found in samples.values():
            for sample in found:
                if sample.audio is None:
                    corpus.passed_over.update(f"{suffix_of(name)} in tars without audio" for name in sample.sidecars)
                yield from _rows(tar, sample)


def _take(corpus: Corpus, samples: dict[str, list[_Sample]], member: TarMember) -> None:
    """Put a member into the sample of its key: the name up to the first dot behind the last slash."""
    folder, slash, base = member.name.rpartition("/")
    found = samples.setdefault(folder + slash + base.partition(".")[0], [_Sample()])
    if is_audio(member.name, corpus.source):
        if found[-1].audio is not None:  # several channels or qualities under one key: each is a recording
            found.append(_Sample(facts=found[-1].facts, problem=found[-1].problem))
        found[-1].audio = member
    elif member.content is None:
        corpus.passed_over[f"{suffix_of(member.name)} in tars"] += 1
    elif member.name.lower().endswith(".txt"):
        found[-1].sidecars.append(member.name)
        with _noted(found[-1], member):
            found[-1].facts.setdefault("text", member.content.decode("utf-8-sig"))
    else:
        found[-1].sidecars.append(member.name)
        with _noted(found[-1], member):
            found[-1].facts.update(json_object(member.content.decode("utf-8-sig")))


@contextmanager
def _noted(sample: _Sample, member: TarMember) -> Iterator[None]:
    """A sidecar that cannot be read is a problem of its sample, whose audio goes on."""
    try:
        yield
    except UnicodeDecodeError as error:
        sample.problem = f"{member.name} is not UTF-8: {error.reason} at byte {error.start}: {AS_UTF8}"
    except ValueError as error:
        sample.problem = f"{member.name}: {error}"


def _rows(tar: str, sample: _Sample) -> Iterator[CorpusRow]:
    if sample.audio is None:
        return
    uri = f"{tar}#{sample.audio.name}"
    place = f"tar:{sample.audio.offset}:{sample.audio.size}"
    if sample.problem:
        yield CorpusRow(audio=uri, member=place, place=uri, problem=sample.problem)
    segments = sample.facts.get("segments")
    # A copy: another audio of the key has the same.
    whole = {name: value for name, value in sample.facts.items() if name != "segments"}
    yield facts_of(whole, audio=uri, member=place, place=uri)
    for number, segment in enumerate(segments if isinstance(segments, list) else [], start=1):
        where = f"{uri}.segments[{number}]"
        try:
            start, end = to_samples(segment["start"]), to_samples(segment["end"])
            facts = facts_of(segment, audio=uri, member=place, place=where)
            yield CorpusRow(
                audio=uri,
                member=place,
                place=where,
                start=start,
                end=end,
                text=facts.text,
                language=facts.language,
                speaker=facts.speaker,
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            yield CorpusRow(audio=uri, member=place, place=where, problem=f"it needs start, end and text: {error}")
