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
from pipeline.corpora.tars import Damage, TarMember, members
from schemas.audio import SAMPLE_RATE
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


TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "recording_id", "speaker", "language", "text", "type"), (str,)),
    **dict.fromkeys(("channel", "channels"), (int,)),
    **dict.fromkeys(("start", "duration"), (int, float)),
}
"""What lhotse's attributes are, where they are at all; of channels there may be lists."""


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
    channels: tuple[int, ...] = ()
    """What lhotse calls the channels of this file, in their order; () for 0, 1, 2 ..."""

    def channel(self, wanted: int | list[int]) -> int:
        """Which channel of the file a stretch is on; -1 where it is on several."""
        channels = wanted if isinstance(wanted, list) else [wanted]
        if len(channels) != 1:
            return -1
        return self.channels.index(channels[0]) if channels[0] in self.channels else channels[0]


@dataclass
class _Reader:
    corpus: Corpus
    parse: Callable[[dict[str, Any]], Any]
    tars: dict[str, dict[str, TarMember]] = field(default_factory=dict)
    said: set[tuple[object, ...]] = field(default_factory=set)
    """What has been stated already: windows of one recording and overlapping sets of cuts repeat their supervisions."""

    def _items(self, name: str) -> Iterator[tuple[str, Any]]:
        """(place, item, or the ValueError that says why there is none) of each line."""
        for place, row in read_table(self.corpus.files, name):
            if isinstance(row, RowError):
                yield place, row
                continue
            try:
                item = self.parse(dict(row))
                _check_types(item)
            except (AttributeError, AssertionError, KeyError, TypeError, ValueError) as error:
                yield place, _Unusable(f"lhotse cannot read it: {error}")
            else:
                yield place, item

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
                stretches = cut.supervisions or [cut]
                files = [self._audio_of(cut, tar, stretch.channel) for stretch in stretches]
                begin = to_decimal(cut.start)
            except ValueError as error:
                yield CorpusRow(audio="", place=place, problem=str(error), code=getattr(error, "code", "bad_row"))
                continue
            for audio, stretch in zip(files, stretches, strict=True):
                if stretch is cut:
                    yield from self._rows(audio, place, cut, Decimal(0), None)
                else:
                    yield from self._rows(audio, place, stretch, begin, stretch)

    def supervised(self, recordings: list[str], supervisions: list[str]) -> Iterator[CorpusRow]:
        """Every recording, and the supervisions on its clock."""
        known: dict[str, Any] = {}
        files: set[str] = set()
        for name in recordings:
            for place, recording in self._items(name):
                try:
                    if isinstance(recording, ValueError):
                        raise recording
                    audio = self._files_of(recording)
                except ValueError as error:
                    yield CorpusRow(audio="", place=place, problem=str(error))
                    continue
                known[recording.id] = recording
                # The splits of a corpus may share recordings: each manifest names them, and they are the same.
                yield from (
                    CorpusRow(audio=file.uri, place=place, recording=file.name)
                    for file in audio
                    if file.uri not in files
                )
                files.update(file.uri for file in audio)
        for name in supervisions:
            for place, supervision in self._items(name):
                if isinstance(supervision, ValueError):
                    yield CorpusRow(audio="", place=place, problem=str(supervision))
                elif supervision.recording_id not in known:
                    detail = f"its recording {supervision.recording_id} is not among the recordings"
                    yield CorpusRow(audio="", place=place, code="missing", problem=detail)
                else:
                    try:
                        file = self._file_of(known[supervision.recording_id], supervision.channel)
                    except ValueError as error:
                        yield CorpusRow(audio="", place=place, problem=str(error))
                        continue
                    yield from self._rows(file, place, supervision, Decimal(0), supervision)

    def _audio_of(self, cut: Any, tar: str | None, channel: int | list[int]) -> _Audio:
        if cut.recording is None:
            raise _Unusable("it has no recording, only features", code="missing")
        if [source.type for source in cut.recording.sources] != ["shar"]:
            return self._file_of(cut.recording, channel)
        member = self.tars.get(tar or "", {}).get(cut.id)
        if tar is None or member is None:
            raise _Unusable(f"its audio {cut.id} is not in {tar or 'a recording.*.tar beside it'}", code="missing")
        return _Audio(uri=f"{tar}#{member.name}", name=cut.recording.id, member=f"tar:{member.offset}:{member.size}")

    def _file_of(self, recording: Any, channel: int | list[int]) -> _Audio:
        """The file that has these channels: a recording may have one for each."""
        wanted = set(channel if isinstance(channel, list) else [channel])
        files = self._files_of(recording)
        if len(files) == 1:
            return files[0]
        for file in files:
            if wanted <= set(file.channels):
                return file
        raise _Unusable(f"no file of its recording holds the channels {sorted(wanted)}: mixing files is not done here")

    def _files_of(self, recording: Any) -> list[_Audio]:
        if any(not _keeps_sound(transform) for transform in recording.transforms or ()):
            raise _Unusable(
                "its recording is transformed (perturbed, reverberated, or resampled to less than 16 kHz): "
                "save it as it should be"
            )
        if not recording.sources or any(source.type not in ("file", "url") for source in recording.sources):
            kinds = ", ".join(str(source.type) for source in recording.sources) or "nothing"
            raise _Unusable(f"its recording comes from {kinds}: only files and URLs are read, and no command is run")
        return [
            _Audio(
                uri=audio_uri(self.corpus, "", str(source.source)), name=recording.id, channels=tuple(source.channels)
            )
            for source in recording.sources
        ]

    def _open(self, tar: str) -> list[Damage]:
        found = list(members(self.corpus.files, tar))
        self.tars[tar] = {
            str(PurePosixPath(member.name).with_suffix("")): member
            for member in found
            if isinstance(member, TarMember) and is_audio(member.name, self.corpus.source)
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
        channel = audio.channel(stretch.channel)
        statement = (
            audio.uri,
            channel,
            times,
            said.id if said is not None else None,
            said.text if said is not None else None,
        )
        if statement in self.said:
            return
        self.said.add(statement)
        words: list[GivenWord] = []
        try:
            words = _words(said, start, end, offset)
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:  # the utterance goes on without them
            yield CorpusRow(audio=audio.uri, member=audio.member, place=place, problem=str(error))
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


def _keeps_sound(transform: Any) -> bool:
    """Whether a transform only resamples to 16 kHz or more: the file itself, as everything is read at 16 kHz."""
    name = transform.get("name") if isinstance(transform, dict) else type(transform).__name__
    rate = (
        transform.get("kwargs", {}).get("target_sampling_rate", 0)
        if isinstance(transform, dict)
        else getattr(transform, "target_sampling_rate", 0)
    )
    return name == "Resample" and rate >= SAMPLE_RATE


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
    return tar if number and tar in corpus.present else None


def _check_types(item: Any) -> None:
    """Raises ValueError where a value is of another type than lhotse says that it is: lhotse itself takes any."""
    recording = getattr(item, "recording", None) or item
    sources = getattr(recording, "sources", None) or ()
    if any(not isinstance(source.channels, list) for source in sources):
        raise ValueError("its recording does not list the channels of a file")
    owners = [item, recording, *sources, *(getattr(item, "supervisions", None) or ())]
    if any(getattr(owner, "channel", 0) is None for owner in owners):
        raise ValueError("it names no channel")
    for owner in owners:
        for name, kinds in TYPES.items():
            value = getattr(owner, name, None)
            values = value if isinstance(value, list) and name.startswith("channel") else [value]
            if any(each is not None and (not isinstance(each, kinds) or isinstance(each, bool)) for each in values):
                raise ValueError(f"its {name} is {value!r}")
