"""Transcripts that came with the audio."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.asr.base import Heard, Unusable
from pipeline.source.base import AudioReader
from schemas.cards import Card
from schemas.spec import TranscriptSpec
from schemas.tables import Recording, Segment


class GivenTranscripts:
    """Backend `transcript`: the text that came with the audio. It cannot be divided among several segments."""

    def __init__(self, spec: TranscriptSpec) -> None:
        self._language = spec.language

    def card(self) -> Card:
        """Not a model: the text is part of the inventory."""
        return Card(kind="asr", name="transcript", facts={})

    def open(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to release."""

    def transcribe(
        self, recording: Recording, segments: Sequence[Segment], audio: AudioReader
    ) -> Sequence[Heard | Unusable]:
        """The recording's text, where one segment holds all speech of the recording."""
        return [self._one(recording, segment) for segment in segments]

    def _one(self, recording: Recording, segment: Segment) -> Heard | Unusable:
        if recording.transcript is None or not recording.transcript.strip():
            return Unusable(code="empty_transcript", detail=f"no text came with {recording.uri}")
        if segment.cut_reason != "whole" or (segment.channel >= 0 and recording.channels > 1):
            return Unusable(
                code="align_failed",
                detail=f"the text of {recording.uri} is for more than this segment and cannot be divided: raise "
                "segments.max_gap_seconds (recordings of up to segments.max_seconds then stay whole), cut longer "
                "recordings beforehand, or let transcripts.backend be whisperx",
            )
        language = recording.language_hint or self._language
        return Heard(text=" ".join(recording.transcript.split()), language=language)
