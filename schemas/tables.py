"""The tables of the pipeline. Times are integers: samples at 16 kHz unless a name says otherwise; seconds only in reports."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

import pyarrow as pa

from schemas.arrow import ByteList, Float32, Float64, Int32, Int64, IntList, Row, Text, UnitList

CutReason = Annotated[Literal["silence", "max_length", "end", "whole", "given"], pa.string()]
Timing = Annotated[Literal["aligned", "star", "interpolated", "doubtful"], pa.string()]
RejectCode = Literal[
    "decode_error",
    "unsupported",
    "duplicate",
    "empty",
    "too_short",
    "too_long",
    "non_finite",
    "missing",
    "bad_row",
    "no_speech",
    "empty_transcript",
    "repetition",
    "low_logprob",
    "rate_out_of_range",
    "align_failed",
    "align_coverage",
    "frame_mismatch",
    "clipped",
    "narrow_band",
    "noisy",
    "music",
    "wrong_language",
    "hallucination",
    "timeout",
    "out_of_memory",
    "worker_crashed",
    "stage_error",
]
RejectCodeText = Annotated[RejectCode, pa.string()]


class InventoryItem(Row):
    """A file of the source as listing found it, before anything is decoded. Partitions are cut from these."""

    TABLE: ClassVar[str] = "inventory"
    VERSION: ClassVar[int] = 2
    KEY: ClassVar[tuple[str, ...]] = ("uri",)

    uri: Text
    """Relative to the source folder, with forward slashes."""
    bytes: Int64
    probe: Text
    """sha256 over the size and the first and last 64 KiB: notices a changed file without reading all of it."""
    seconds: Float64 | None
    """From the header; None where the header cannot be read (decoding will say why)."""
    duplicate_of: Text | None = None
    """The uri of the first file with the same bytes."""
    transcript: Text | None = None
    language_hint: Text | None = None
    license: Text | None = None
    extra: Text | None = None
    """JSON: whatever else the manifest said of this file."""
    member: Text | None = None
    """Where in a container the recording lies (pipeline/source/members.py); null where it is a file of its own."""
    given: Text | None = None
    """JSON (schemas/given.py): utterances and words with times that came with the recording."""
    refused: RejectCodeText | None = None
    """The reject code of what is known beforehand to be no recording: a row that names no file, a file that is missing."""
    detail: Text | None = None
    """The sentence that goes with it."""


class Recording(Row):
    """A decoded file. `recording_id` is a hash of the file's bytes, so a renamed file keeps its id."""

    TABLE: ClassVar[str] = "recordings"
    VERSION: ClassVar[int] = 2
    KEY: ClassVar[tuple[str, ...]] = ("recording_id",)

    recording_id: Text
    uri: Text
    """Relative to the source folder, so that the table does not depend on where the folder is."""
    source: Text
    bytes: Int64
    sha256: Text
    codec: Text
    sample_rate: Int32
    channels: Int32
    num_samples: Int64
    """At the recording's own rate, before resampling."""
    num_samples_16k: Int32
    language_hint: Text | None = None
    license: Text | None = None
    transcript: Text | None = None
    """The text that came with the audio, where there is one; read by the `transcript` backend."""
    extra: Text | None = None
    """JSON: whatever else the manifest said of this file."""
    member: Text | None = None
    """Where in a container the recording lies; null where it is a file of its own."""
    given: Text | None = None
    """JSON (schemas/given.py): utterances and words with times; read by the `given` backends."""


class Segment(Row):
    """A stretch of speech of at most ~30 s, [start, end) in 16 kHz samples of the recording."""

    TABLE: ClassVar[str] = "segments"
    VERSION: ClassVar[int] = 1
    KEY: ClassVar[tuple[str, ...]] = ("recording_id", "channel", "start")

    segment_id: Text
    recording_id: Text
    channel: Int32
    """-1 for the mix of all channels."""
    start: Int32
    end: Int32
    speech_prob: Float32
    cut_reason: CutReason
    """Why it ends: a pause, the length limit inside speech, the last speech, all speech of its recording; given by its corpus."""


class AudioQuality(Row):
    """What was measured of a segment's sound (pipeline/measures/signal.py)."""

    TABLE: ClassVar[str] = "audio_quality"
    VERSION: ClassVar[int] = 1
    KEY: ClassVar[tuple[str, ...]] = ("segment_id",)

    segment_id: Text
    clipping: Float32
    """Share of samples on flat tops."""
    bandwidth: Float32
    """Hz."""
    snr: Float32
    """dB, at most 60."""
    music: Float32
    """Share of the time."""


class TextQuality(Row):
    """What was measured of a transcript (pipeline/measures/text.py)."""

    TABLE: ClassVar[str] = "text_quality"
    VERSION: ClassVar[int] = 1
    KEY: ClassVar[tuple[str, ...]] = ("segment_id",)

    segment_id: Text
    words_per_second: Float32
    hallucinated: Float32
    """Share of characters in phrases that Whisper says where nobody speaks."""
    looped: Float32
    """Share of words in a stretch that is said three times or more on end."""
    as_hinted: Annotated[bool, pa.bool_()] | None = None
    """Whether the language is the manifest's; null where that says none."""


class Transcript(Row):
    """What is said in a segment."""

    TABLE: ClassVar[str] = "transcripts"
    VERSION: ClassVar[int] = 1
    KEY: ClassVar[tuple[str, ...]] = ("segment_id",)

    segment_id: Text
    text: Text
    language: Text
    language_prob: Float32 | None = None
    avg_logprob: Float32 | None = None
    asr: Text
    """Id of the card of the recogniser."""


class Word(Row):
    """A word of a transcript and when it is said: [start, end) in 16 kHz samples from the segment's start."""

    TABLE: ClassVar[str] = "words"
    VERSION: ClassVar[int] = 2
    KEY: ClassVar[tuple[str, ...]] = ("segment_id", "word_index")

    segment_id: Text
    word_index: Int32
    text: Text
    char_start: Int32
    char_end: Int32
    """[char_start, char_end) of the transcript's text."""
    start: Int32
    end: Int32
    char_times: IntList
    """The start of each of the word's characters, samples from the segment's start; empty where the aligner gives none."""
    score: Float32
    timing: Timing
    aligner: Text
    uncovered: IntList = []
    """Speech that no word covers, as start and end, start and end: before this word, and after it where it is the last."""


class Units(Row):
    """Discrete units of a segment, one per hop, not deduplicated; len(units) == num_frames == (end - start) // hop."""

    TABLE: ClassVar[str] = "units"
    VERSION: ClassVar[int] = 1
    KEY: ClassVar[tuple[str, ...]] = ("segment_id",)

    segment_id: Text
    num_frames: Int32
    units: UnitList
    tokenizer: Text


class Patches(Row):
    """Word-aligned patches of a segment: bounds[0] == 0, strictly increasing, bounds[-1] == num_frames."""

    TABLE: ClassVar[str] = "patches"
    VERSION: ClassVar[int] = 1
    KEY: ClassVar[tuple[str, ...]] = ("segment_id",)

    segment_id: Text
    bounds: IntList
    kind: ByteList
    word_index: IntList
    word_frames: IntList
    """Flat pairs: [frame start, frame end) of every word, in word order."""
    policy: Text


class Reject(Row):
    """A row that a stage did not pass on, and why. Nothing vanishes: rows in == rows out + rejected."""

    TABLE: ClassVar[str] = "rejects"
    VERSION: ClassVar[int] = 3
    KEY: ClassVar[tuple[str, ...]] = ("id", "part", "code")

    id: Text
    """The key of the stage's input: a uri for `recordings`, a recording_id for `segments`, else a segment_id."""
    part: Text = ""
    """What of the input was rejected, where the rest of it went on: a row of its corpus, such as "data/segments:17"."""
    stage: Text
    code: RejectCodeText
    detail: Text
    """A sentence that says what was found and, where there is one, the remedy."""
    retriable: Annotated[bool, pa.bool_()]
    attempts: Int32
    seconds: Float64
    """Audio seconds lost with this row."""
    traceback: Text | None = None
    """Where the stage failed on this row, for `stage_error`."""


ROWS = (InventoryItem, Recording, Segment, AudioQuality, Transcript, TextQuality, Word, Units, Patches, Reject)
TABLES: dict[str, type[Row]] = {row.TABLE: row for row in ROWS}


def recording_id(sha256: str) -> str:
    """The id of a recording: the first 16 hex digits of the hash of its bytes."""
    return sha256[:16]


def segment_id(recording: str, start: int, end: int, channel: int = -1) -> str:
    """The id of a segment: recording, [channel,] start and end, zero-padded so that ids sort by time."""
    middle = "" if channel < 0 else f"c{channel}-"
    return f"{recording}-{middle}{start:010d}-{end:010d}"


def span_of(identity: str) -> tuple[int, int, int] | None:
    """(channel, start, end) as the id of a segment states them; None where a text is no such id."""
    match = re.fullmatch(r"[0-9a-f]{16}-(?:c(\d+)-)?(\d{10})-(\d{10})", identity)
    return None if match is None else (int(match[1] or -1), int(match[2]), int(match[3]))
