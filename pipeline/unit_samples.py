"""Samples of speech shards from units and words that exist already: no audio, no tables, no models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.given_words import find_words
from pipeline.patches import aligned_patches, word_frames
from pipeline.shards import Passage, SegmentRecord, build_sample
from schemas.audio import SAMPLE_RATE
from schemas.cards import CardKind
from schemas.spec import PatchesSpec, ShardsSpec
from schemas.tables import Patches, Recording, Segment, Timing, Transcript, Units, Word, recording_id, segment_id


@dataclass(frozen=True, kw_only=True)
class UnitUtterance:
    """Speech as units, one per frame, with the words that are said, in order, as [start, end) in frames."""

    name: str
    """Unique in its set: the sample's id follows from it."""
    units: Sequence[int]
    words: Sequence[tuple[str, int, int]]
    text: str | None = None
    """As it is written, if that is known; it must hold the letters of the words in order. None: the words themselves."""
    language: str = "en"
    timing: Sequence[Timing] | None = None
    """How each word was placed; None: all aligned."""


def unit_sample(
    utterance: UnitUtterance, *, hop: int, cards: Mapping[CardKind, str], silence: PatchesSpec | None = None
) -> dict[str, bytes | str]:
    """The members of one sample, as `pipeline.shards.write_shard` takes them. `hop` is in samples at 16 kHz per unit.

    Words keep their frames; one without a frame is given one, as the patches stage does.

    Raises:
        ValueError: there is no unit, or words overlap or leave the units.
    """
    count = len(utterance.units)
    position = 0
    for word, start, end in utterance.words:
        if not position <= start <= end <= count:
            raise ValueError(f"the word {word!r} at frames {start} to {end} overlaps, or leaves the {count} units")
        position = end
    if not count:
        raise ValueError("there is no unit")
    record = _record(utterance, hop, silence or PatchesSpec())
    sha = hashlib.sha256(utterance.name.encode("utf-8")).hexdigest()
    recording = Recording(
        recording_id=recording_id(sha), uri=utterance.name, source="", bytes=0, sha256=sha, codec="", channels=1,
        sample_rate=SAMPLE_RATE, num_samples=count * hop, num_samples_16k=count * hop,
    )  # fmt: skip
    return build_sample(Passage(recording=recording, parts=[record]), ShardsSpec(), hop, cards, None)


def _record(utterance: UnitUtterance, hop: int, spec: PatchesSpec) -> SegmentRecord:
    """The rows that the stages would have written for it."""
    recording = recording_id(hashlib.sha256(utterance.name.encode("utf-8")).hexdigest())
    length = len(utterance.units)
    identity = segment_id(recording, 0, length * hop)
    said = [word for word, _, _ in utterance.words]
    spans = find_words(utterance.text, said) if utterance.text is not None else None
    text = utterance.text if spans is not None and utterance.text is not None else " ".join(said)
    if spans is None:
        spans, at = [], 0
        for word in said:
            spans.append((at, at + len(word)))
            at += len(word) + 1
    frames = word_frames([(start * hop, end * hop) for _, start, end in utterance.words], length, hop)
    bounds, kind, index = aligned_patches(frames, length, spec.silence)
    timings = utterance.timing if utterance.timing is not None else ["aligned"] * len(said)
    words = [
        Word(
            segment_id=identity, word_index=number, text=text[first:last], char_start=first, char_end=last,
            start=start * hop, end=end * hop, char_times=[], score=1.0, timing=timing, aligner="given",
        )
        for number, ((first, last), (start, end), timing) in enumerate(zip(spans, frames, timings, strict=True))
    ]  # fmt: skip
    return SegmentRecord(
        segment=Segment(
            segment_id=identity, recording_id=recording, channel=-1, start=0, end=length * hop, speech_prob=1.0,
            cut_reason="whole",
        ),
        transcript=Transcript(segment_id=identity, text=text, language=utterance.language, asr="given"),
        words=words,
        units=Units(segment_id=identity, num_frames=length, units=list(utterance.units), tokenizer="given"),
        patches=Patches(
            segment_id=identity, bounds=bounds, kind=kind, word_index=index, policy=f"aligned/silence-{spec.silence}",
            word_frames=[edge for span in frames for edge in span],
        ),
    )  # fmt: skip
