"""What every export starts from: the segments of speech shards, each with its words on the recording's own clock."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np

from model.data.compose import segments_of
from model.data.shards import Sample, ShardSet
from schemas.audio import SAMPLE_RATE
from schemas.config import ConfigError
from schemas.files import whole_file
from schemas.given import stem_of
from schemas.shards import TIMING_CODES, channel_in

LONGEST_STEM = 240
"""Bytes of a name to which a suffix such as .TextGrid is added: file systems take 255."""
TIMINGS = {code: name for name, code in TIMING_CODES.items()}


@dataclass(frozen=True, kw_only=True)
class SpokenWord:
    """A word as it is written, and its frames within the segment; start equals end only where words outnumber frames."""

    text: str
    start: int
    end: int
    timing: str


@dataclass(frozen=True, kw_only=True)
class SpokenSegment:
    """One segment of a recording."""

    segment_id: str
    recording_id: str
    channel: int | None
    """Where the channels of a recording were cut apart."""
    uri: str
    language: str
    speaker: str | None
    """As the corpus names them, where it does."""
    start: int
    """In the recording, samples at 16 kHz."""
    end: int
    hop: int
    """Samples at 16 kHz per frame."""
    text: str
    words: list[SpokenWord]
    units: np.ndarray
    """uint16 [T]"""
    bounds: np.ndarray
    """int32 [P + 1]: bounds of the word-aligned patches, from 0 to T."""
    kinds: list[int]
    """[P]: 0 word, 1 silence, 2 filler."""

    @property
    def track(self) -> str:
        """The recording, and its channel where there are several: segments of one track never overlap."""
        return self.recording_id if self.channel is None else f"{self.recording_id}-c{self.channel}"

    @property
    def name(self) -> str:
        """What a row about it is called: by the path of its audio and its id, `source.words` finds both."""
        return f"{self.uri}#{self.segment_id}"

    def at(self, frame: int) -> int:
        """Where a frame begins in the recording, samples at 16 kHz."""
        return self.start + frame * self.hop


def segments_of_sample(sample: Sample) -> Iterator[SpokenSegment]:
    """The segments of one sample, in order. A sample without units has none."""
    if not len(sample.units):
        return
    meta, first_word = sample.meta, 0
    for span, part in zip(meta.segments, segments_of(sample), strict=True):
        timings = sample.words[first_word : first_word + part.num_words, 2]
        first_word += part.num_words
        words = [
            SpokenWord(text=part.text[a:b], start=int(start), end=int(end), timing=TIMINGS[int(code)])
            for (a, b), (start, end), code in zip(part.char_spans, part.words, timings, strict=True)
        ]
        inside = (sample.patch >= span.frame_start) & (sample.patch <= span.frame_end)
        low, high = np.flatnonzero(inside)[[0, -1]]
        yield SpokenSegment(
            segment_id=span.segment_id,
            recording_id=meta.recording_id,
            channel=channel_in(span.segment_id, meta.recording_id),
            uri=meta.uri,
            language=span.language or meta.language,
            speaker=span.speaker,
            start=span.start,
            end=span.end,
            hop=meta.hop,
            text=part.text,
            words=words,
            units=part.units,
            bounds=sample.patch[low : high + 1] - span.frame_start,
            kinds=meta.patch_kind[low:high],
        )


def samples_of_shard(shards: ShardSet, shard: int) -> Iterator[Sample]:
    """The samples of shard number `shard`, in order.

    Raises:
        ShardError: the shard is missing or damaged.
    """
    for number in range(shards.counts[shard]):
        yield shards.read(shard, number)


def shares_of(shards: ShardSet) -> dict[str, dict[str, float]]:
    """Seconds per language and per licence. Indexes of older sets lack them: then the samples are asked, which know no licence.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    totals = shards.index.totals
    if "languages" in totals:
        return {"languages": totals["languages"], "licenses": totals.get("licenses", {})}
    languages: Counter[str] = Counter()
    for shard in range(len(shards.counts)):
        for sample in samples_of_shard(shards, shard):
            length = sample.meta.num_frames * sample.meta.hop if len(sample.units) else len(sample.meta.text)
            languages[sample.meta.language] += length
    divisor = shards.index.sample_rate if shards.index.kind == "speech" else 1
    return {"languages": {name: amount / divisor for name, amount in languages.items()}, "licenses": {}}


def tracks_of(shards: ShardSet) -> Iterator[list[SpokenSegment]]:
    """All segments, those of one track together: its passages follow each other in a shard.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    gathered: list[SpokenSegment] = []
    for shard in range(len(shards.counts)):
        for sample in samples_of_shard(shards, shard):
            for segment in segments_of_sample(sample):
                if gathered and gathered[-1].track != segment.track:
                    yield gathered
                    gathered = []
                gathered.append(segment)
    if gathered:
        yield gathered


def recordings_of(shards: ShardSet) -> Iterator[list[list[SpokenSegment]]]:
    """The tracks of each recording: one, or one for each channel that was cut by itself.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    for _, tracks in groupby(tracks_of(shards), key=lambda track: track[0].recording_id):
        yield list(tracks)


def uris_of(shards: ShardSet) -> set[str]:
    """Of all recordings.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    return {sample.meta.uri for shard in range(len(shards.counts)) for sample in samples_of_shard(shards, shard)}


def seconds(samples: int) -> str:
    """Samples at 16 kHz as decimal seconds, exactly: a reader that rounds to samples gets the same number back."""
    whole, rest = divmod(samples, SAMPLE_RATE)
    return f"{whole}.{f'{rest * 625:07d}'.rstrip('0') or '0'}"


class FileNames:
    """Relative paths without suffix for files about recordings, after their audio: `a/b.flac` gives `a/b`.

    Where another recording would be called so too, both keep the suffix of their audio. What would leave the folder (a URL, an
    absolute path, `..`) goes by its bare name. What is too long for a name with another suffix, or still another's, goes by its
    id, which the source does not know.
    """

    def __init__(self, uris: Collection[str]) -> None:
        """`uris`: of all recordings that will be asked for."""
        self._paths = Counter(name for uri in uris for name in _paths(uri))
        self._bare = Counter(map(_bare, uris))

    def of(self, segment: SpokenSegment) -> str:
        """The path for the segment's recording."""
        paths, bare = _paths(segment.uri), _bare(segment.uri)
        names = [name for name in paths if self._paths[name] < 2]
        if not paths and bare not in ("", "..") and self._bare[bare] < 2 and not self._paths[bare]:
            names = [bare]
        fit = (name for name in names if len(os.fsencode(PurePosixPath(name).name)) <= LONGEST_STEM)
        return next(fit, segment.recording_id)


def _paths(uri: str) -> list[str]:
    """What a file about a recording may be called, without suffix: the best first; nothing where the audio lies elsewhere."""
    path = PurePosixPath(uri.replace("#", "/"))
    if "://" in uri or "::" in uri or path.is_absolute() or ".." in path.parts or not path.name:
        return []
    return list(dict.fromkeys((stem_of(str(path)), str(path))))


def _bare(uri: str) -> str:
    return PurePosixPath(stem_of(uri).replace("#", "/")).name


def one_word(text: str) -> str:
    """A word for formats that put white space between words."""
    return re.sub(r"\s+", "_", text.strip())


def refuse_others(folder: Path, pattern: str, names: Sequence[str]) -> None:
    """Raises ConfigError where the folder holds files of a pattern that are none of these: who reads the pattern would read
    them too."""
    others = sorted({path.name for path in folder.glob(pattern)} - set(names))
    if others:
        raise ConfigError(
            f"{folder} holds {others[0]} of another export, which would be read with this one",
            "name another folder, or remove what is there",
        )


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole: a killed export leaves no half file under the right name."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
