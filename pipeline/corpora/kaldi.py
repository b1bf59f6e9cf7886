"""A Kaldi data directory: wav.scp, segments, text, utt2lang, utt2spk. Nothing in it is run."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.corpora.base import Corpus, CorpusRow, audio_uri, to_channel, to_samples
from pipeline.corpora.manifests import broken_row
from pipeline.corpora.tables import RowError, lines_of
from schemas.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class _Utterance:
    recording: str
    place: str
    times: tuple[str, str] | None
    channel: str | None = None
    """The fifth column of `segments`, which Kaldi's extract-segments counts from 0."""


def kaldi(corpus: Corpus) -> Iterator[CorpusRow]:
    """Every folder with a wav.scp; its paths are relative to the source folder (Kaldi's are to where its scripts run)."""
    folders = [
        posixpath.dirname(name) for name in corpus.names if PurePosixPath(name).name in ("wav.scp", "wav.scp.gz")
    ]
    if not folders:
        raise ConfigError(f"{corpus.source.uri} holds no wav.scp, which a Kaldi data directory has")
    for folder in folders:
        yield from _Directory(corpus, folder).rows()


class _Directory:
    def __init__(self, corpus: Corpus, folder: str) -> None:
        self.corpus, self.folder = corpus, folder
        self.problems: list[CorpusRow] = []

    def rows(self) -> Iterator[CorpusRow]:
        audio: dict[str, tuple[str, str]] = {}
        files = self._read("wav.scp")
        for recording, (value, place) in files.items():
            if value.rstrip().endswith("|") or value.lstrip().startswith("|"):
                yield CorpusRow(
                    audio="",
                    place=place,
                    problem=f"{recording} is a command, and no command is run: name a file, or write its output to one",
                )
                continue
            try:
                audio[recording] = (audio_uri(self.corpus, "", value), place)
            except ValueError as error:
                yield CorpusRow(audio="", place=place, problem=str(error))
        texts, languages, speakers = self._read("text"), self._read("utt2lang"), self._read("utt2spk")
        channels = self._read("reco2file_and_channel")
        refused = files.keys() - audio.keys()
        utterances = self._utterances(audio)
        for identity, utterance in utterances.items():
            if utterance.recording in refused:
                continue  # its recording has been refused above, once
            yield self._row(identity, utterance, audio, texts, languages, speakers, channels)
        for identity, (_, place) in texts.items():
            if identity not in utterances and identity not in refused:
                yield CorpusRow(audio="", place=place, code="missing", problem=f"there is no utterance {identity}")
        yield from self.problems

    def _utterances(self, audio: dict[str, tuple[str, str]]) -> dict[str, _Utterance]:
        found: dict[str, _Utterance] = {}
        for identity, (value, place) in self._read("segments").items():
            recording, *times = value.split() or [""]
            pair = (times[0], times[1]) if len(times) in (2, 3) else ("", "")
            channel = times[2] if len(times) == 3 else None
            found[identity] = _Utterance(recording=recording, place=place, times=pair, channel=channel)
        if self._path("segments") is None:
            found = {name: _Utterance(recording=name, place=place, times=None) for name, (_, place) in audio.items()}
        return found

    def _row(
        self,
        identity: str,
        utterance: _Utterance,
        audio: dict[str, tuple[str, str]],
        texts: dict[str, tuple[str, str]],
        languages: dict[str, tuple[str, str]],
        speakers: dict[str, tuple[str, str]],
        channels: dict[str, tuple[str, str]],
    ) -> CorpusRow:
        place = utterance.place
        if utterance.recording not in audio:
            detail = f"the recording {utterance.recording} of {identity} is not in wav.scp"
            return CorpusRow(audio="", place=place, code="missing", problem=detail)
        uri = audio[utterance.recording][0]
        start = end = None
        channel = _channel(channels.get(utterance.recording))
        if utterance.times is not None:
            try:
                channel = channel if utterance.channel is None else _counted_from_0(utterance.channel)
                start = to_samples(utterance.times[0])
                end = None if utterance.times[1] in ("-1", "-1.0") else to_samples(utterance.times[1])
            except ValueError as error:
                return CorpusRow(audio=uri, place=place, problem=f"{identity}: {error}")
        return CorpusRow(
            audio=uri,
            place=place,
            start=start,
            end=end,
            channel=channel,
            text=_value(texts, identity),
            language=_value(languages, identity),
            speaker=_value(speakers, identity),
            id=identity if start is not None else None,
            recording=utterance.recording,
        )

    def _path(self, name: str) -> str | None:
        path = posixpath.join(self.folder, name)
        return next((found for found in (path, f"{path}.gz") if found in self.corpus.present), None)

    def _read(self, name: str) -> dict[str, tuple[str, str]]:
        """Key -> (the rest of its line, place); nothing where the file is not there. What cannot be used goes to `problems`."""
        path = self._path(name)
        found: dict[str, tuple[str, str]] = {}
        for number, line in lines_of(self.corpus.files, path) if path is not None else ():
            if isinstance(line, RowError):
                self.problems.append(broken_row(line))
                continue
            key, *rest = line.strip().split(maxsplit=1)
            value, place = rest[0].strip() if rest else "", f"{path}:{number}"
            first, where = found.setdefault(key, (value, place))
            if first != value:
                self.problems.append(CorpusRow(audio="", place=place, problem=f"{key} stands in {where} already"))
        return found


def _channel(entry: tuple[str, str] | None) -> int:
    """From reco2file_and_channel, whose channels are A, B ... or 1, 2 ...; -1 where it says nothing."""
    return to_channel(entry[0].split()[-1]) if entry is not None and entry[0] else -1


def _counted_from_0(channel: str) -> int:
    """The fifth column of `segments`; -1 names none there, and some write letters."""
    counted = channel.isascii() and channel.isdigit() and len(channel) <= 3
    number = int(channel) if counted else to_channel(channel)
    if number < 0 and channel != "-1":
        raise ValueError(
            f"its channel {channel!r} is neither a number from 0 nor a letter (the fifth column of segments)"
        )
    return number


def _value(table: dict[str, tuple[str, str]], key: str) -> str | None:
    return table[key][0] or None if key in table else None
