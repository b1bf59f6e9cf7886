"""Transcripts that came with the audio."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby

from pipeline.asr.base import Heard, Unusable
from pipeline.source.base import AudioReader
from pipeline.text.languages import language_code
from schemas.cards import NO_MODEL, Card
from schemas.given import Given, GivenSegment, GivenWord, channel_of, load_given
from schemas.spec import TranscriptSpec
from schemas.tables import Recording, Segment


class GivenTranscripts:
    """Backend `transcript`: the text that came with an utterance, with a recording that is one segment, or with its words.

    A text without times cannot be divided among several segments.
    """

    def __init__(self, spec: TranscriptSpec) -> None:
        self._language = spec.language

    def card(self) -> Card:
        """Not a model: the text is part of the inventory."""
        return Card(kind="asr", name="transcript", facts={}, notes={"license": NO_MODEL})

    def open(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to release."""

    def transcribe(self, cuts: Sequence[tuple[Recording, Segment]], audio: AudioReader) -> Sequence[Heard | Unusable]:
        """The text of each segment, in the language that the corpus states, else the spec's."""
        return [
            text
            for recording, members in groupby(cuts, key=lambda cut: cut[0])
            for text in self._recording(recording, [segment for _, segment in members])
        ]

    def _recording(self, recording: Recording, segments: Sequence[Segment]) -> list[Heard | Unusable]:
        given = load_given(recording.given)
        utterances: dict[tuple[int, int, int], GivenSegment] = {}
        for utterance in given.segments:  # an end beyond the audio has been cut by the segments stage
            length = recording.num_samples_16k
            end = length if utterance.end is None else min(utterance.end, length)
            utterances.setdefault((channel_of(utterance.channel, recording.channels), utterance.start, end), utterance)
        words = WordsByTime(given.words)
        return [self._one(recording, segment, given, utterances, words) for segment in segments]

    def _one(
        self,
        recording: Recording,
        segment: Segment,
        given: Given,
        utterances: dict[tuple[int, int, int], GivenSegment],
        words_by_time: WordsByTime,
    ) -> Heard | Unusable:
        key = (segment.channel, segment.start, segment.end)
        utterance = utterances.get(key) if segment.cut_reason == "given" else None
        language = (utterance.language if utterance is not None else None) or recording.language_hint or self._language
        text = utterance.text if utterance is not None else None
        is_whole = segment.cut_reason == "whole" and (segment.channel < 0 or recording.channels == 1)
        if text is None and is_whole:
            text = recording.transcript
        if text is None and given.words:
            text = " ".join(word[0] for word in words_by_time.of(segment))
        if text is not None and text.strip():
            words = " ".join(text.split())
            if (steering := next((char for char in words if unicodedata.category(char) == "Cc"), None)) is not None:
                place = utterance.place if utterance is not None else recording.uri
                detail = f"the text of {place} holds the control character U+{ord(steering):04X}: mend what holds it"
                return Unusable(code="bad_row", detail=detail)
            return Heard(text=words, language=language_code(language))
        if utterance is not None:
            return Unusable(code="empty_transcript", detail=f"{utterance.place} gives no text")
        if given.segments:
            return Unusable(
                code="align_failed",
                detail=f"{recording.uri} came with {len(given.segments)} utterances: let segments.backend be given",
            )
        if recording.transcript is None or not recording.transcript.strip() or is_whole:
            return Unusable(code="empty_transcript", detail=f"no text came with {recording.uri}")
        return Unusable(
            code="align_failed",
            detail=f"the text of {recording.uri} is for more than this segment and cannot be divided: let "
            "segments.backend be given (a recording of up to segments.max_seconds is then one segment), cut longer "
            "recordings beforehand, or let transcripts.backend be whisperx",
        )


class WordsByTime:
    """The given words of a recording, of which each segment looks at its own: there may be hours of them."""

    def __init__(self, words: Sequence[GivenWord]) -> None:
        self._words = words
        middles = [(word[1] + word[2]) // 2 for word in words]
        self._order = sorted(range(len(words)), key=middles.__getitem__)
        self._middles = [middles[number] for number in self._order]

    def of(self, segment: Segment) -> list[GivenWord]:
        """Those whose middle lies in the segment, on its channel (or on any where either names none), in their order."""
        first, last = (bisect_left(self._middles, time) for time in (segment.start, segment.end))
        words = (self._words[number] for number in sorted(self._order[first:last]))
        return [word for word in words if word[3] == segment.channel or min(word[3], segment.channel) < 0]
