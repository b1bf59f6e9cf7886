"""From tables to shards: segments are joined into passages, a passage becomes one WebDataset sample (schemas/shards.py)."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.source.base import AudioReader
from schemas.audio import SAMPLE_RATE
from schemas.cards import CardKind
from schemas.given import channel_of, load_given
from schemas.shards import TIMING_CODES, SampleMeta, SegmentSpan
from schemas.spec import ShardsSpec
from schemas.tables import Patches, Recording, Segment, Transcript, Units, Word

VERSION = 3
SEVERAL_LANGUAGES = "mul"


@dataclass(frozen=True, kw_only=True)
class SegmentRecord:
    """All that the tables say of one segment."""

    segment: Segment
    transcript: Transcript
    words: Sequence[Word]
    units: Units
    patches: Patches


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Consecutive segments of one recording and channel: one sample."""

    recording: Recording
    parts: Sequence[SegmentRecord]

    @property
    def key(self) -> str:
        """The sample's key: recording, channel where there are several, first start and last end."""
        first, last = self.parts[0].segment, self.parts[-1].segment
        return first.segment_id.rsplit("-", 1)[0] + f"-{last.end:010d}"


def passages(
    recordings: Iterable[Recording],
    segments: Sequence[Segment],
    complete: Mapping[str, SegmentRecord],
    seconds: float,
    max_gap_seconds: float = 10.0,
) -> Iterator[Passage]:
    """Join segments into passages of at most `seconds` of speech. A longer gap ends one: a minute of music left out between two
    segments would else read as if they followed each other.

    A segment that was rejected anywhere ends the passage, and so does a gap of more than `max_gap_seconds`: what follows does
    not continue what came before.
    """
    by_id = {recording.recording_id: recording for recording in recordings}
    parts: list[SegmentRecord] = []
    samples = 0

    def flush() -> Iterator[Passage]:
        if parts:
            yield Passage(recording=by_id[parts[0].segment.recording_id], parts=tuple(parts))
            parts.clear()

    for segment in sorted(segments, key=lambda item: (item.recording_id, item.channel, item.start)):
        record = complete.get(segment.segment_id)
        last = parts[-1].segment if parts else segment
        joins = (last.recording_id, last.channel) == (segment.recording_id, segment.channel)
        length = segment.end - segment.start
        apart = segment.start - last.end > max_gap_seconds * SAMPLE_RATE
        if record is None or not joins or apart or samples + length > seconds * SAMPLE_RATE:
            yield from flush()
            samples = 0
        if record is not None:
            parts.append(record)
            samples += length
    yield from flush()


def records(
    segments: Iterable[Segment],
    transcripts: Iterable[Transcript],
    words: Iterable[Word],
    units: Iterable[Units],
    patches: Iterable[Patches],
) -> dict[str, SegmentRecord]:
    """The segments that made it through every stage, by id."""
    by_segment = {segment.segment_id: segment for segment in segments}
    text = {transcript.segment_id: transcript for transcript in transcripts}
    unit_rows = {row.segment_id: row for row in units}
    spoken: dict[str, list[Word]] = {}
    for word in words:
        spoken.setdefault(word.segment_id, []).append(word)
    return {
        row.segment_id: SegmentRecord(
            segment=by_segment[row.segment_id],
            transcript=text[row.segment_id],
            words=sorted(spoken[row.segment_id], key=lambda word: word.word_index),
            units=unit_rows[row.segment_id],
            patches=row,
        )
        for row in patches
    }


def build_sample(
    passage: Passage, spec: ShardsSpec, hop: int, cards: Mapping[CardKind, str], audio: AudioReader | None
) -> dict[str, bytes | str]:
    """A passage as the members of a WebDataset sample. `audio` is needed where the spec wants .flac members."""
    arrays = _Arrays()
    for part in passage.parts:
        arrays.add(part, hop)
    languages = [part.transcript.language for part in passage.parts]
    spans = arrays.spans
    if len(set(languages)) > 1:
        spans = [span.with_updates(language=language) for span, language in zip(spans, languages, strict=True)]
    speakers = speakers_of(passage)
    if any(speakers):
        spans = [span.with_updates(speaker=speaker) for span, speaker in zip(spans, speakers, strict=True)]
    meta = SampleMeta(
        key=passage.key,
        recording_id=passage.recording.recording_id,
        uri=passage.recording.uri,
        segments=spans,
        language=languages[0] if len(set(languages)) == 1 else SEVERAL_LANGUAGES,
        text=arrays.text,
        words=arrays.char_spans,
        patch_kind=arrays.kind,
        num_frames=arrays.frames,
        hop=hop,
        cards=dict(cards),
    )
    members: dict[str, bytes | str] = {
        "__key__": passage.key,
        "json": json_bytes(meta),
        "units.npy": npy_bytes(np.asarray(arrays.units, dtype=np.uint16)),
        "words.npy": npy_bytes(np.asarray(arrays.words, dtype=np.int32).reshape(-1, 3)),
        "scores.npy": npy_bytes(np.asarray(arrays.scores, dtype=np.float16)),
        "patch.npy": npy_bytes(np.asarray([*arrays.bounds, arrays.frames], dtype=np.int32)),
    }
    if any(time >= 0 for time in arrays.chars):
        members["chars.npy"] = npy_bytes(np.asarray(arrays.chars, dtype=np.int32))
    if spec.audio:
        assert audio is not None
        samples = _samples(passage, audio)
        if (
            peak := float(np.abs(samples).max(initial=0.0))
        ) > 1.0:  # floats may exceed full scale, FLAC would clip them
            samples = samples / peak
            members["json"] = json_bytes(meta.model_copy(update={"audio_gain": 1.0 / peak}))
        members["flac"] = _flac_bytes(samples)
    return members


def speakers_of(passage: Passage) -> list[str | None]:
    """Who speaks in each segment, by the corpus: of the utterance that it shares most time with, else of the whole recording."""
    recording = passage.recording
    extra = json.loads(recording.extra) if recording.extra else {}
    whole = None if extra.get("speaker") is None else str(extra["speaker"])
    return [_speaker(recording, part.segment) or whole for part in passage.parts]


def _speaker(recording: Recording, segment: Segment) -> str | None:
    shared: Counter[str] = Counter()
    for start, end, channel, speaker in _utterances(recording.given):
        if (
            start < segment.end
            and end > segment.start
            and channel_of(channel, recording.channels) in (segment.channel, -1)
        ):
            shared[speaker] += min(end, segment.end) - max(start, segment.start)
    return max(shared, key=lambda name: (shared[name], name)) if shared else None


@lru_cache(maxsize=8)
def _utterances(given: str | None) -> list[tuple[int, int, int, str]]:
    """(start, end, channel, speaker) of the utterances of a recording whose speaker is named."""
    forever = 1 << 62
    named = [utterance for utterance in load_given(given).segments if utterance.speaker]
    return [(u.start, forever if u.end is None else u.end, u.channel, str(u.speaker)) for u in named]


class _Arrays:
    """The arrays of a passage while its segments are joined: frames and characters are shifted, nothing else changes."""

    def __init__(self) -> None:
        self.frames = 0
        self.text = ""
        self.units: list[int] = []
        self.words: list[tuple[int, int, int]] = []
        self.scores: list[float] = []
        self.char_spans: list[tuple[int, int]] = []
        self.chars: list[int] = []
        self.bounds: list[int] = []
        self.kind: list[int] = []
        self.spans: list[SegmentSpan] = []

    def add(self, part: SegmentRecord, hop: int) -> None:
        if self.text:
            self.text += " "
            self.chars.append(-1)
        shift, frames = len(self.text), part.units.num_frames
        chars = [-1] * len(part.transcript.text)
        edges = part.patches.word_frames
        for index, word in enumerate(part.words):
            start, end = edges[2 * index], edges[2 * index + 1]
            self.words.append((self.frames + start, self.frames + end, TIMING_CODES[word.timing]))
            self.scores.append(word.score)
            self.char_spans.append((shift + word.char_start, shift + word.char_end))
            for offset, time in enumerate(word.char_times):
                chars[word.char_start + offset] = self.frames + min(time // hop, frames - 1)
        self.chars.extend(chars)
        self.text += part.transcript.text
        self.units.extend(part.units.units)
        self.bounds.extend(self.frames + bound for bound in part.patches.bounds[:-1])
        self.kind.extend(part.patches.kind)
        segment = part.segment
        self.spans.append(
            SegmentSpan(
                segment_id=segment.segment_id,
                start=segment.start,
                end=segment.end,
                frame_start=self.frames,
                frame_end=self.frames + frames,
            )
        )
        self.frames += frames


def write_shard(samples: Iterable[dict[str, bytes | str]]) -> bytes:
    """Samples as the bytes of a tar file: equal samples give equal bytes (no clock, no owner)."""
    from webdataset.writer import TarWriter

    buffer = io.BytesIO()
    with TarWriter(buffer, user="lst", group="lst", mtime=0, encoder=False) as writer:
        for sample in samples:
            writer.write(sample)
    return buffer.getvalue()


def json_bytes(meta: SampleMeta) -> bytes:
    """A sample's `.json` member: equal facts give equal bytes."""
    fields = meta.model_dump(mode="json", exclude_none=True)
    return json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as a `.npy` member of the oldest format, without pickles."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _samples(passage: Passage, audio: AudioReader) -> np.ndarray:
    return np.concatenate(
        [
            audio.read(passage.recording, part.segment.channel)[part.segment.start : part.segment.end]
            for part in passage.parts
        ]
    )


def _flac_bytes(samples: np.ndarray) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1.0, 1.0), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
