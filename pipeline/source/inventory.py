"""Listing: which files the source holds, what came with them, how they are cut into partitions. Nothing is decoded."""

from __future__ import annotations

import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from fsspec.utils import glob_translate

from pipeline.corpora.base import Corpus
from pipeline.corpora.read import Entry, read_corpus
from pipeline.source.decode import header_seconds
from pipeline.source.folder import SourceFolder, hash_stream
from pipeline.source.members import container_of
from pipeline.source.metadata import FileFacts, read_manifest, read_sidecars
from schemas.cards import fingerprint
from schemas.config import ConfigError
from schemas.spec import Source
from schemas.tables import InventoryItem

PROBE_BYTES = 65_536
PROBE_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A run of inventory items that is worked on and committed as one."""

    name: str
    """Its place in the inventory and 8 hex digits of the hash of its items, such as "00003-9f86d081"."""
    items: tuple[InventoryItem, ...]


def list_source(source: Source) -> list[InventoryItem]:
    """Every audio file of the source, sorted by uri, with what its header and its manifest or sidecar say.

    Raises:
        ConfigError: the folder is missing or holds no audio, a name is not UTF-8, or the manifest is wrong.
    """
    folder = SourceFolder(source.uri)
    if source.layout != "folder":
        return _list_corpus(folder, source)
    names = _list_names(folder, source)
    suffixes = {suffix.lower() for suffix in source.suffixes}
    audio = [name for name in names if PurePosixPath(name).suffix.lower() in suffixes]
    if not audio:
        raise ConfigError(
            f"{source.uri} holds no audio: {len(names)} files match {source.pattern!r}, "
            f"none ends in {', '.join(sorted(suffixes))}"
        )
    facts = _facts(folder, source, names, audio)
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        probed = list(pool.map(lambda name: _probe(folder, name, facts.get(name, FileFacts())), audio))
    return _mark_duplicates(folder, probed)


def _list_corpus(folder: SourceFolder, source: Source) -> list[InventoryItem]:
    """What the corpus's own tables name; `source.pattern` chooses among it."""
    names = _list_names(folder, source.with_updates(pattern="**/*"))
    matches = re.compile(glob_translate(source.pattern)).match
    entries = [
        entry
        for entry in read_corpus(Corpus(files=folder, names=names, source=source))
        if matches(container_of(entry.uri, entry.member))
    ]
    if not entries:
        raise ConfigError(
            f"the {source.layout} corpus in {source.uri} names no recording that matches {source.pattern!r}"
        )
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        return _mark_duplicates(folder, list(pool.map(lambda entry: _probe_entry(folder, entry), entries)))


def _probe_entry(folder: SourceFolder, entry: Entry) -> InventoryItem:
    """An entry with what its bytes say. A file that is not there is listed all the same: it becomes a reject."""
    size, probe, seconds = 0, "", None
    refused, detail = entry.refused, entry.detail
    if refused is None:
        try:
            with folder.open(entry.uri, entry.member) as file:
                size, probe, seconds = _probe_file(file)
        except OSError as error:
            refused, detail = "missing", f"it cannot be opened: {error.strerror or error}"
    return InventoryItem(
        uri=entry.uri,
        bytes=size,
        probe=probe,
        seconds=seconds,
        transcript=entry.transcript,
        language_hint=entry.language,
        license=entry.license,
        extra=entry.extra,
        member=entry.member,
        given=entry.given,
        refused=refused,
        detail=detail,
    )


def list_files(source: Source, transcripts: Mapping[str, str]) -> list[InventoryItem]:
    """The named files of a folder, each with what is said in it ("": nobody knows), sorted by uri. Other files are not looked at.

    Raises:
        OSError: one of them is not there.
    """
    folder = SourceFolder(source.uri)
    facts = {name: FileFacts(transcript=text or None) for name, text in transcripts.items()}
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        probed = list(pool.map(lambda name: _probe(folder, name, facts[name]), sorted(facts)))
    return _mark_duplicates(folder, probed)


def cut_partitions(items: Sequence[InventoryItem], minutes: float, files: int) -> list[Partition]:
    """Cut the inventory, in uri order, into partitions of at most `minutes` (one file may be longer) and `files` files.

    A function of its arguments alone: neither the number of workers nor what was done before can change it.
    """
    groups: list[list[InventoryItem]] = []
    seconds = 0.0
    for item in sorted(items, key=lambda item: item.uri):
        length = item.seconds or 0.0
        if not groups or len(groups[-1]) >= files or seconds + length > minutes * 60:
            groups.append([])
            seconds = 0.0
        groups[-1].append(item)
        seconds += length
    return [
        Partition(name=f"{index:05d}-{_hash_items(group)[:8]}", items=tuple(group))
        for index, group in enumerate(groups)
    ]


def _hash_items(items: Sequence[InventoryItem]) -> str:
    return fingerprint([item.model_dump(mode="json") for item in items])


def _list_names(folder: SourceFolder, source: Source) -> list[str]:
    if not folder.filesystem.isdir(folder.root):
        raise ConfigError(f"the source {source.uri} is not a folder: set source.uri to the folder that holds the audio")
    matches = re.compile(glob_translate(source.pattern)).match
    names = [path[len(folder.root) + 1 :] for path in folder.filesystem.find(folder.root)]
    names = sorted(name for name in names if matches(name))
    for name in names:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            shown = name.encode("utf-8", "backslashreplace").decode()
            raise ConfigError(f"the file name {shown} is not UTF-8: rename it, tables can only hold UTF-8") from error
    return names


def _facts(folder: SourceFolder, source: Source, names: Sequence[str], audio: Sequence[str]) -> dict[str, FileFacts]:
    if source.transcripts == "manifest" and source.manifest is None:
        raise ConfigError("source.transcripts is 'manifest' but source.manifest does not name one")
    facts: dict[str, FileFacts] = {}
    if source.manifest is not None:
        facts = read_manifest(folder, source.manifest, with_transcripts=source.transcripts == "manifest")
        missing = sorted(set(facts) - set(audio))
        if missing:
            raise ConfigError(
                f"{source.manifest} names {len(missing)} files that are not among the audio of {source.uri}, "
                f"the first is {missing[0]}"
            )
    if source.transcripts == "sidecar":
        for name, text in read_sidecars(folder, names, audio).items():
            facts[name] = facts.get(name, FileFacts()).with_transcript(text)
    return facts


def _probe(folder: SourceFolder, name: str, facts: FileFacts) -> InventoryItem:
    with folder.open(name) as file:
        size, probe, seconds = _probe_file(file)
    return InventoryItem(
        uri=name,
        bytes=size,
        probe=probe,
        seconds=seconds,
        transcript=facts.transcript,
        language_hint=facts.language,
        license=facts.license,
        extra=facts.extra,
    )


def _probe_file(file: BinaryIO) -> tuple[int, str, float | None]:
    """(bytes, probe, seconds by the header) of an open file."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    digest = hashlib.sha256(f"{size}:".encode() + file.read(PROBE_BYTES))
    file.seek(max(0, size - PROBE_BYTES))
    digest.update(file.read(PROBE_BYTES))
    file.seek(0)
    return size, digest.hexdigest(), header_seconds(file) if size else None


def _mark_duplicates(folder: SourceFolder, items: Sequence[InventoryItem]) -> list[InventoryItem]:
    """Equal probes are compared by the hash of all bytes; the first uri keeps its place."""
    same_probe: dict[str, list[InventoryItem]] = defaultdict(list)
    for item in items:
        if item.bytes:
            same_probe[item.probe].append(item)
    first: dict[str, str] = {}
    duplicate_of: dict[str, str] = {}
    for group in same_probe.values():
        if len(group) < 2:
            continue
        for item in group:
            with folder.open(item.uri, item.member) as file:
                digest = hash_stream(file)
            original = first.setdefault(digest, item.uri)
            if original != item.uri:
                duplicate_of[item.uri] = original
    return [
        item.with_updates(duplicate_of=duplicate_of[item.uri]) if item.uri in duplicate_of else item for item in items
    ]
