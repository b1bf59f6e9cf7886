"""Listing: which files the source holds, what came with them. Nothing is decoded, known files are not opened."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fsspec.utils import glob_translate

from pipeline.containers.base import AudioError
from pipeline.containers.layout import lay_out
from pipeline.corpora.base import Corpus, is_audio
from pipeline.corpora.guess import with_advice
from pipeline.corpora.manifests import matching
from pipeline.corpora.read import Entry, read_corpus
from pipeline.source.alignments import with_alignments
from pipeline.source.folder import SourceFolder
from pipeline.source.known import Known, seconds_by_ends
from pipeline.source.listing import Found, find_files, suffix_of
from pipeline.source.members import container_of
from pipeline.source.metadata import FileFacts, Problem, read_manifest, read_sidecars
from schemas.config import ConfigError
from schemas.errors import StorageError
from schemas.spec import Source
from schemas.tables import InventoryItem, RejectCode

PROBE_THREADS = 8
"""Probing waits for storage and not for the processor."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The recordings of a source, sorted by uri, and how many other files there are, by what they are."""

    items: list[InventoryItem]
    not_listed: Counter[str]


def list_source(source: Source) -> list[InventoryItem]:
    """The items of `survey`.

    Raises:
        ConfigError: as `survey`.
    """
    return survey(source).items


def survey(source: Source, known: Known | None = None) -> Listing:
    """Every audio file of the source with what its header and its manifest or sidecar say, and a count of every other file.

    A link that leads nowhere, a row of a manifest that cannot be read, a file that cannot be opened: these are items with a
    `refused`, and become rejects. Files that `known` knows unchanged are not opened; afterwards it knows these.

    Raises:
        ConfigError: the folder is missing or holds no audio, or nothing of the manifest can be used.
    """
    folder = SourceFolder(source.uri)
    if not folder.filesystem.isdir(folder.root):
        raise ConfigError(f"the source {source.uri} is not a folder: set source.uri to the folder that holds the audio")
    found = find_files(folder.filesystem, folder.root, local=folder.is_local)
    probe = Probe(folder, found, Known() if known is None else known)
    listing = (_survey_folder if source.layout == "folder" else _survey_corpus)(folder, source, found, probe)
    if not source.words:
        return listing
    items = with_alignments(Corpus(files=folder, names=found.names, source=source), listing.items)
    read = (name for name in found.names if any(matching(name, pattern) for pattern in source.words))
    return Listing(items=items, not_listed=listing.not_listed - Counter(suffix_of(name) for name in read))


def _survey_folder(folder: SourceFolder, source: Source, found: Found, probe: Probe) -> Listing:
    matches = re.compile(glob_translate(source.pattern)).match
    names = [name for name in found.names if matches(name)]
    audio = [name for name in names if is_audio(name, source)]
    broken = {name: why for name, why in found.broken.items() if matches(name) and is_audio(name, source)}
    if not audio and not broken:
        raise ConfigError(
            f"{source.uri} holds no audio: {len(names)} files match {source.pattern!r}, "
            f"none ends in {', '.join(sorted(source.suffixes))}"
        )
    facts, problems, used = _facts(folder, source, names, audio)
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        items = list(pool.map(lambda name: probe.file(name, facts.get(name, FileFacts())), audio))
    items = probe.mark_duplicates(items)
    items += [_refused(name, "missing", why) for name, why in broken.items()]
    items += [_refused(problem.place, problem.code, problem.detail) for problem in problems]
    others = set(names) - set(audio) - used
    not_listed = with_advice(Counter(suffix_of(name) for name in others), names, source) + found.passed_over
    not_listed["broken links or odd files"] += len(found.broken) - len(broken)
    not_listed["outside source.pattern"] += len(found.names) - len(names)
    return Listing(items=sorted(items, key=lambda item: item.uri), not_listed=+not_listed)


def _survey_corpus(folder: SourceFolder, source: Source, found: Found, probe: Probe) -> Listing:
    """What the corpus's own tables name; `source.pattern` chooses among it. Audio that no table names is counted."""
    matches = re.compile(glob_translate(source.pattern)).match
    rows = read_corpus(Corpus(files=folder, names=found.names, source=source))
    entries = [entry for entry in rows if matches(container_of(entry.uri, entry.member))]
    if not entries:
        raise ConfigError(
            f"the {source.layout} corpus in {source.uri} names no recording that matches {source.pattern!r}"
        )
    named = {container_of(entry.uri, entry.member) for entry in rows}
    not_listed = Counter(
        f"{suffix_of(name)} that no table names" for name in found.names if is_audio(name, source) and name not in named
    )
    not_listed["outside source.pattern"] += len(rows) - len(entries)
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        items = probe.mark_duplicates(list(pool.map(probe.entry, entries)))
    return Listing(items=items, not_listed=+(not_listed + found.passed_over))


def _refused(uri: str, code: RejectCode, detail: str) -> InventoryItem:
    return InventoryItem(uri=uri, bytes=0, probe="", seconds=None, refused=code, detail=detail)


def unreadable(source: Source, items: Sequence[InventoryItem]) -> dict[str, str]:
    """uri -> a sentence, for the items that are known to become rejects before anything is decoded.

    Only files whose header told no length are looked at once more.
    """
    folder = SourceFolder(source.uri)
    problems: dict[str, str] = {}
    for item in items:
        if item.refused is not None:
            problems[item.uri] = item.detail or item.refused
        elif item.seconds is None:
            try:
                with folder.open(item.uri, item.member) as file:
                    lay_out(file)
            except AudioError as error:
                problems[item.uri] = error.detail
            except OSError as error:
                problems[item.uri] = f"it cannot be opened: {error.strerror or error}"
    return problems


def list_files(source: Source, transcripts: Mapping[str, str]) -> list[InventoryItem]:
    """The named files of a folder, each with what is said in it ("": nobody knows), sorted by uri. Other files are not looked at.

    Raises:
        OSError: one of them is not there.
    """
    folder = SourceFolder(source.uri)
    probe = Probe(folder, Found(), Known())
    facts = {name: FileFacts(transcript=text or None) for name, text in transcripts.items()}
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        return probe.mark_duplicates(list(pool.map(lambda name: probe.file(name, facts[name]), sorted(facts))))


def _facts(
    folder: SourceFolder, source: Source, names: Sequence[str], audio: Sequence[str]
) -> tuple[dict[str, FileFacts], list[Problem], set[str]]:
    """What a manifest and sidecars say, what of it cannot be read, and the names that were read."""
    if source.transcripts == "manifest" and source.manifest is None:
        raise ConfigError("source.transcripts is 'manifest' but source.manifest does not name one")
    facts: dict[str, FileFacts] = {}
    problems: list[Problem] = []
    used: set[str] = set()
    if source.manifest is not None:
        read = read_manifest(folder, source.manifest, audio, with_transcripts=source.transcripts == "manifest")
        facts, problems = read.facts, read.problems
        used.add(source.manifest)
    if source.transcripts == "sidecar":
        texts = read_sidecars(folder, names, audio)
        facts |= {name: facts.get(name, FileFacts()).with_transcript(text) for name, text in texts.texts.items()}
        problems += texts.problems
        used |= texts.used
    return facts, problems, used


class Probe:
    """Looks into files that are not known: their first and last bytes, and all of them where those are not enough."""

    def __init__(self, folder: SourceFolder, found: Found, known: Known) -> None:
        self._folder, self._found, self._known = folder, found, known

    def file(self, name: str, facts: FileFacts) -> InventoryItem:
        """A file with what is said of it."""
        try:
            size, probe, seconds = self._look(name, None)
        except StorageError:
            raise  # nothing is known of the file: the inventory must not say that it is missing
        except OSError as error:
            return _refused(name, "missing", f"it cannot be opened: {error.strerror or error}")
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

    def entry(self, entry: Entry) -> InventoryItem:
        """An entry of a corpus's tables. A file that is not there is listed all the same: it becomes a reject."""
        size, probe, seconds = 0, "", None
        refused, detail = entry.refused, entry.detail
        if refused is None:
            try:
                size, probe, seconds = self._look(entry.uri, entry.member)
            except StorageError:
                raise
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

    def _look(self, uri: str, member: str | None) -> tuple[int, str, float | None]:
        """(bytes, probe, seconds by the header)."""
        name = container_of(uri, member)
        stamp = self._found.stamps.get(name)
        looked = self._known.recall(uri, stamp if member is None or stamp is None else f"{stamp}:{member}")
        if looked is None:
            head, tail, size = self._folder.open_ends(uri, member, self._found.sizes.get(uri))
            probe = hashlib.sha256(f"{size}:".encode() + head + tail).hexdigest()[:32]
            looked = size, probe, seconds_by_ends(head, tail, size) if size else None
        self._known.ends[uri] = looked[1]
        return looked

    def mark_duplicates(self, items: Sequence[InventoryItem]) -> list[InventoryItem]:
        """Equal probes are compared by the hash of all bytes. The first uri of which a text or segments are known keeps its
        place, else the first; a copy with another text says so.

        Files that differ in their middle alone get probes of their own, by that hash.
        """
        same_probe: dict[str, list[InventoryItem]] = defaultdict(list)
        for item in items:
            if item.bytes:
                same_probe[item.probe].append(item)
        changed: dict[str, InventoryItem] = {}
        for probe, group in same_probe.items():
            if len(group) < 2:
                continue
            first: dict[str, InventoryItem] = {}
            digests = {item.uri: self._known.hash_whole(self._folder, item.uri, item.member) for item in group}
            for item in sorted(group, key=lambda item: item.transcript is None and item.given is None):
                original = first.setdefault(digests[item.uri], item)
                if original is not item:
                    differs = item.transcript is not None and item.transcript != original.transcript
                    changed[item.uri] = item.with_updates(
                        duplicate_of=original.uri,
                        detail=f"its text differs from that of {original.uri}" if differs else item.detail,
                    )
            if len(first) > 1:
                for item in group:
                    own = hashlib.sha256(f"{probe}{digests[item.uri]}".encode()).hexdigest()[:32]
                    changed[item.uri] = changed.get(item.uri, item).with_updates(probe=own)
        return [changed.get(item.uri, item) for item in items]
