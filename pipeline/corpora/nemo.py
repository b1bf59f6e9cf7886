"""NeMo: manifests of JSON lines, and tarred data sets of audio_0.tar, audio_1.tar ... with one manifest."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from pipeline.corpora.base import Corpus, CorpusRow
from pipeline.corpora.manifests import manifest_names, row_of, rows_with_audio, timed_row
from pipeline.corpora.tars import Damage, TarMember, members

SHARD = re.compile(r"audio_+(?:\w*?_)?(\d+)\.tar")


def nemo(corpus: Corpus) -> Iterator[CorpusRow]:
    """audio_filepath, offset, duration, text, lang, speaker; paths are relative to the manifest, as NeMo reads them.

    A row with a `shard_id` names a member of audio_<shard_id>.tar in the manifest's folder.
    """
    for name in manifest_names(corpus, ("*manifest*.json", "*manifest*.jsonl", "**/*manifest*.json")):
        base = posixpath.dirname(name)
        shards = _Shards(corpus, base)
        for found in rows_with_audio(corpus, name):
            if isinstance(found, CorpusRow):
                yield found
                continue
            place, row = found
            shard = row.get("shard_id")
            if isinstance(shard, int) and shard >= 0:
                yield from shards.row(place, shard, row)
            else:
                yield row_of(corpus, base, place, row)


class _Shards:
    """The members of a manifest's tars, each listed when the first row asks for it."""

    def __init__(self, corpus: Corpus, folder: str) -> None:
        self._corpus = corpus
        self._tars: dict[int, str] = {}
        for name in corpus.names:
            path = PurePosixPath(name)
            if (match := SHARD.fullmatch(path.name)) and str(path.parent) == (folder or "."):
                self._tars.setdefault(int(match[1]), name)
        self._members: dict[int, dict[str, TarMember]] = {}

    def row(self, place: str, shard: int, row: dict[str, Any]) -> Iterator[CorpusRow]:
        tar = self._tars.get(shard)
        if tar is None:
            yield CorpusRow(
                audio="", place=place, code="missing", problem=f"there is no audio_{shard}.tar beside the manifest"
            )
            return
        if shard not in self._members:
            found = list(members(self._corpus.files, tar))
            self._members[shard] = {member.name: member for member in found if isinstance(member, TarMember)}
            for damage in found:
                if isinstance(damage, Damage):
                    where = f"{tar}#{damage.name}" if damage.name else tar
                    yield CorpusRow(audio="", place=where, code="decode_error", problem=damage.detail)
        name = str(row.get("audio_filepath"))
        member = self._members[shard].get(name) or self._members[shard].get(PurePosixPath(name).name)
        if member is None:
            yield CorpusRow(audio="", place=place, code="missing", problem=f"{tar} has no whole member {name}")
            return
        audio = f"{tar}#{member.name}"
        yield timed_row(row, audio=audio, place=place, member=f"tar:{member.offset}:{member.size}")
