"""lhotse: CutSets, recordings with supervisions, and Shar. lhotse itself parses the manifests (an extra) and loads no audio."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from pipeline.corpora.base import Corpus, CorpusRow, audio_uri, is_audio, to_decimal, to_samples
from pipeline.corpora.manifests import matching
from pipeline.corpora.tables import RowError, read_table
from pipeline.corpora.tars import Damage, Member, members
from schemas.config import ConfigError
from schemas.given import GivenWord

SLACK = Decimal("0.05")
"""Seconds by which a word may leave its supervision."""


def lhotse(corpus: Corpus) -> Iterator[CorpusRow]:
    """`*cuts*.jsonl.gz` (with `recording.*.tar` beside them: Shar), or else `*recordings*` and `*supervisions*`.

    Raises:
        ConfigError: there are none, or lhotse is not installed.
    """
    try:
        from lhotse.serialization import deserialize_item
    except ImportError as error:
        raise ConfigError("reading lhotse manifests needs lhotse: install the extra `lhotse`") from error
    reader = _Reader(corpus, deserialize_item)
    wanted = corpus.source.manifest or "**/*cuts*.jsonl"
    if cuts := [name for name in corpus.names if matching(name, wanted)]:
        for name in cuts:
            yield from reader.cuts(name)
        return
    recordings = [name for name in corpus.names if matching(name, "**/*recordings*.jsonl")]
    if not recordings:
        raise ConfigError(
            f"{corpus.source.uri} holds no *cuts*.jsonl(.gz) and no *recordings*.jsonl(.gz), as lhotse writes them"
        )
    yield from reader.supervised(
        recordings, [name for name in corpus.names if matching(name, "**/*supervisions*.jsonl")]
    )


class _Unusable(ValueError):
    """Why an item cannot be used, and the reject code."""

    def __init__(self, detail: str, code: str = "bad_row") -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class _Audio:
    uri: str
    name: str
    """What lhotse calls the recording."""
    member: str | None = None


@dataclass
class _Reader:
    corpus: Corpus
    parse: Callable[[dict[str, Any]], Any]
    tars: dict[str, dict[str, Member]] = field(default_factory=dict)

    def _items(self, name: str) -> Iterator[tuple[str, Any]]:
        """(place, item, or the ValueError that says why there is none) of each line."""
        for place, row in read_table(self.corpus.files, name):
            if isinstance(row, RowError):
                yield place, row
                continue
            try:
                yield place, self.parse(dict(row))
            except (AttributeError, AssertionError, KeyError, TypeError, ValueError) as error:
                yield place, _Unusable(f"lhotse cannot read it: {error}")

    def cuts(self, name: str) -> Iterator[CorpusRow]:
        """The supervisions of each cut; a cut without any is a stretch without a text."""
        tar = _shar_tar(self.corpus, name)
        for damage in self._open(tar) if tar is not None else ():
            place = f"{tar}#{damage.name}" if damage.name else tar or ""
            yield CorpusRow(audio="", place=place, code="decode_error", problem=damage.detail)
        for place, cut in self._items(name):
            try:
                if isinstance(cut, ValueError):
                    raise cut
                if type(cut).__name__ not in ("MonoCut", "MultiCut"):
                    raise _Unusable(
                        f"it is a {type(cut).__name__}: mixed and padded cuts are not stretches of a recording"
                    )
                audio = self._audio_of(cut, tar)
            except ValueError as error:
                yield CorpusRow(audio="", place=place, problem=str(error), code=getattr(error, "code", "bad_row"))
                continue
            if not cut.supervisions:
                yield from self._rows(audio, place, cut, Decimal(0), None)
            for supervision in cut.supervisions:
                yield from self._rows(audio, place, supervision, to_decimal(cut.start), supervision)

    def supervised(self, recordings: list[str], supervisions: list[str]) -> Iterator[CorpusRow]:
        """Every recording, and the supervisions on its clock."""
        audio: dict[str, _Audio] = {}
        for name in recordings:
            for place, recording in self._items(name):
                try:
                    if isinstance(recording, ValueError):
                        raise recording
                    audio[recording.id] = self._file_of(recording)
                    yield CorpusRow(audio=audio[recording.id].uri, place=place, recording=recording.id)
                except ValueError as error:
                    yield CorpusRow(audio="", place=place, problem=str(error))
        for name in supervisions:
            for place, supervision in self._items(name):
                if isinstance(supervision, ValueError):
                    yield CorpusRow(audio="", place=place, problem=str(supervision))
                elif supervision.recording_id not in audio:
                    detail = f"its recording {supervision.recording_id} is not among the recordings"
                    yield CorpusRow(audio="", place=place, code="missing", problem=detail)
                else:
                    yield from self._rows(audio[supervision.recording_id], place, supervision, Decimal(0), supervision)

    def _audio_of(self, cut: Any, tar: str | None) -> _Audio:
        if cut.recording is None:
            raise _Unusable("it has no recording, only features", code="missing")
        if [source.type for source in cut.recording.sources] != ["shar"]:
            return self._file_of(cut.recording)
        member = self.tars.get(tar or "", {}).get(cut.id)
        if tar is None or member is None:
            raise _Unusable(f"its audio {cut.id} is not in {tar or 'a recording.*.tar beside it'}", code="missing")
        return _Audio(uri=f"{tar}#{member.name}", name=cut.recording.id, member=f"tar:{member.offset}:{member.size}")

    def _file_of(self, recording: Any) -> _Audio:
        if recording.transforms:
            raise _Unusable(
                "its recording is transformed (resampled, perturbed or reverberated): save it as it should be"
            )
        if len(recording.sources) != 1 or recording.sources[0].type not in ("file", "url"):
            kinds = ", ".join(source.type for source in recording.sources) or "nothing"
            raise _Unusable(f"its recording comes from {kinds}: only one file or URL is read, and no command is run")
        return _Audio(uri=audio_uri(self.corpus, "", str(recording.sources[0].source)), name=recording.id)

    def _open(self, tar: str) -> list[Damage]:
        found = list(members(self.corpus.files, tar))
        self.tars[tar] = {
            PurePosixPath(member.name).stem: member
            for member in found
            if isinstance(member, Member) and is_audio(member.name, self.corpus.source)
        }
        return [member for member in found if isinstance(member, Damage)]

    def _rows(self, audio: _Audio, place: str, stretch: Any, offset: Decimal, said: Any) -> Iterator[CorpusRow]:
        """A stretch (a cut or a supervision) that begins `offset` seconds later than it says, with the words that fit it."""
        try:
            start = offset + Decimal(str(stretch.start))
            end = start + to_decimal(stretch.duration)
            times = to_samples(max(start, Decimal(0))), to_samples(end)
        except (ArithmeticError, ValueError) as error:
            yield CorpusRow(audio=audio.uri, member=audio.member, place=place, problem=str(error))
            return
        words: list[GivenWord] = []
        try:
            words = _words(said, start, end, offset)
        except (ArithmeticError, ValueError) as error:  # the utterance goes on without them
            yield CorpusRow(audio=audio.uri, member=audio.member, place=place, problem=str(error))
        channels = stretch.channel if isinstance(stretch.channel, list) else [stretch.channel]
        channel = channels[0] if len(channels) == 1 else -1
        yield CorpusRow(
            audio=audio.uri,
            member=audio.member,
            recording=audio.name,
            place=place,
            start=times[0],
            end=times[1],
            channel=channel,
            text=said.text if said is not None else None,
            language=said.language if said is not None else None,
            speaker=said.speaker if said is not None else None,
            id=said.id if said is not None else None,
            words=tuple((word, begin, until, channel) for word, begin, until, _ in words),
        )


def _words(said: Any, start: Decimal, end: Decimal, offset: Decimal) -> list[GivenWord]:
    """The word alignment on the recording's clock.

    lhotse leaves alignments as they were when it cuts a supervision out, so they are on the recording's clock where they fit
    the supervision there; else on the cut's. (Ours, which carry `hop`, are always on the cut's.)
    """
    items = (said.alignment or {}).get("word") if said is not None else None
    if not items:
        return []
    spans = [
        (item.symbol, Decimal(str(item.start)), Decimal(str(item.start)) + Decimal(str(item.duration)))
        for item in items
    ]
    ours = "hop" in (said.custom or {})
    for shift in (offset,) if ours else (Decimal(0), offset):
        if all(start - SLACK <= begin + shift and until + shift <= end + SLACK for _, begin, until in spans):
            return [
                (word, to_samples(begin + shift), to_samples(until + shift), -1)
                for word, begin, until in spans
                if word.strip()
            ]
    raise ValueError(f"the words of {said.id} lie outside of it, from {start} to {end} s")


def _shar_tar(corpus: Corpus, cuts: str) -> str | None:
    """The tar of audio that goes with a Shar's cuts: recording.000000.tar beside cuts.000000.jsonl.gz."""
    folder, name = posixpath.split(cuts)
    number = name.removesuffix(".gz").removesuffix(".jsonl").partition(".")[2]
    tar = posixpath.join(folder, f"recording.{number}.tar")
    return tar if number and tar in set(corpus.names) else None
