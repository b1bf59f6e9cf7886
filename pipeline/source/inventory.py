"""Listing: which files the source holds, what came with them. Nothing is decoded, known files are not opened."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
from fsspec.utils import glob_translate

from pipeline.containers.base import AudioError
from pipeline.containers.layout import lay_out
from pipeline.corpora.base import Corpus, is_audio, suffix_of
from pipeline.corpora.guess import with_advice
from pipeline.corpora.manifests import matching
from pipeline.corpora.read import read_corpus
from pipeline.source.alignments import with_alignments
from pipeline.source.folder import SourceFolder
from pipeline.source.known import Known
from pipeline.source.listing import Found, find_files
from pipeline.source.members import container_of
from pipeline.source.metadata import FileFacts, Problem, read_manifest, read_sidecars
from pipeline.source.partitions import ITEM
from pipeline.source.probe import PROBE_THREADS, LookMany, Probe, look_at, refused_item
from schemas.arrow import to_rows
from schemas.config import ConfigError
from schemas.spec import Source
from schemas.storage.tree import is_folder
from schemas.tables import InventoryItem


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The recordings of a source, sorted by uri, and how many other files there are, by what they are."""

    table: pa.Table
    """SNAPSHOT (pipeline/source/known.py)."""
    not_listed: Counter[str]

    @property
    def items(self) -> list[InventoryItem]:
        """The recordings as objects: for sources that are not large."""
        return to_rows(InventoryItem, self.table.select(ITEM.names).cast(ITEM))


def list_source(source: Source) -> list[InventoryItem]:
    """The items of `survey`.

    Raises:
        ConfigError: as `survey`.
    """
    return survey(source).items


def survey(source: Source, known: Known | None = None, look_many: LookMany | None = None) -> Listing:
    """Every audio file of the source with what its header and its manifest or sidecar say, and a count of every other file.

    A link that leads nowhere, a row of a manifest that cannot be read, a file that cannot be opened: these are items with a
    `refused`, and become rejects. Files that `known` knows unchanged are not opened. A plain folder is gone through in batches:
    what grows with it are columns, and what its manifest or sidecars say.

    Raises:
        ConfigError: the folder is missing or holds no audio, or nothing of the manifest can be used.
    """
    folder = SourceFolder(source.uri)
    if not is_folder(folder.filesystem, folder.root):
        raise ConfigError(f"the source {source.uri} is not a folder: set source.uri to the folder that holds the audio")
    found = find_files(folder.filesystem, folder.root, local=folder.is_local)
    probe = Probe(folder, found, Known() if known is None else known, look_many or look_at)
    listing = (_survey_folder if source.layout == "folder" else _survey_corpus)(folder, source, found, probe)
    if not source.words:
        return listing
    items = with_alignments(Corpus(files=folder, names=found.names, source=source), listing.items)
    read = (name for name in found.names if any(matching(name, pattern) for pattern in source.words))
    not_listed = listing.not_listed - Counter(suffix_of(name) for name in read)
    return Listing(table=probe.restated(listing.table, items), not_listed=not_listed)


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
    others = Counter(suffix_of(name) for name in names if name not in used and not is_audio(name, source))
    not_listed = with_advice(others, names, source) + found.passed_over
    not_listed["broken links or odd files"] += len(found.broken) - len(broken)
    not_listed["outside source.pattern"] += len(found.names) - len(names)
    refused = [refused_item(name, "missing", why) for name, why in broken.items()]
    refused += [refused_item(problem.place, problem.code, problem.detail) for problem in problems]
    return Listing(table=probe.files(audio, facts, refused), not_listed=+not_listed)


def _survey_corpus(folder: SourceFolder, source: Source, found: Found, probe: Probe) -> Listing:
    """What the corpus's own tables name; `source.pattern` chooses among it. Audio that no table names is counted."""
    matches = re.compile(glob_translate(source.pattern)).match
    corpus = Corpus(files=folder, names=found.names, source=source)
    rows = read_corpus(corpus)
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
        table = probe.snapshot(list(pool.map(probe.entry, entries)))
    return Listing(table=table, not_listed=+(not_listed + corpus.passed_over + found.passed_over))


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

    One that is not there is an item with a `refused`.
    """
    probe = Probe(SourceFolder(source.uri), Found(), Known())
    facts = {name: FileFacts(transcript=text or None) for name, text in transcripts.items()}
    table = probe.files(sorted(facts), facts, [])
    return to_rows(InventoryItem, table.select(ITEM.names).cast(ITEM))


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
