"""Stage `transcripts`: what is said in each segment. Recognisers are backends behind one Protocol."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

from pipeline.asr.base import Heard, Recogniser, Unusable
from pipeline.asr.given import GivenTranscripts
from pipeline.source.base import AudioReader
from pipeline.stage import Batched, StageResult, refuse, rows_of
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.cards import Card
from schemas.spec import ParakeetSpec, TranscriptSpec, WhisperXSpec
from schemas.tables import Recording, Reject, Segment, Transcript


def make_recogniser(spec: WhisperXSpec | ParakeetSpec | TranscriptSpec) -> Recogniser:
    """The backend that the spec names. Nothing is loaded."""
    if isinstance(spec, TranscriptSpec):
        return GivenTranscripts(spec)
    if isinstance(spec, ParakeetSpec):
        from pipeline.asr.parakeet import ParakeetRecogniser

        return ParakeetRecogniser(spec)
    from pipeline.asr.whisperx import WhisperXRecogniser

    return WhisperXRecogniser(spec)


class TranscriptsStage:
    """Text for each segment. Rejects: empty_transcript, repetition, low_logprob, rate_out_of_range, align_failed."""

    name = Transcript.TABLE
    version = 1
    inputs: tuple[str, ...] = (Segment.TABLE, Recording.TABLE)

    def __init__(
        self, spec: WhisperXSpec | ParakeetSpec | TranscriptSpec, recogniser: Recogniser | None = None
    ) -> None:
        self._spec = spec
        self._recogniser = recogniser if recogniser is not None else make_recogniser(spec)
        self._card_id = ""

    def cards(self) -> list[Card]:
        """The recogniser's."""
        return [self._recogniser.card()]

    def open(self) -> None:
        """Load the recogniser."""
        self._card_id = self._recogniser.card().card_id
        self._recogniser.open()

    def close(self) -> None:
        """Release the recogniser."""
        self._recogniser.close()

    def halve_batch(self) -> bool:
        """See `pipeline.stage.Batched`."""
        return isinstance(self._recogniser, Batched) and self._recogniser.halve_batch()

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """A transcript per segment, or the reason why there is none."""
        recordings = {row.recording_id: row for row in rows_of(tables, Recording)}
        rows: list[Transcript] = []
        rejects: list[Reject] = []
        cuts = [(recordings[segment.recording_id], segment) for segment in rows_of(tables, Segment)]
        for (recording, segment), result in zip(cuts, self._recogniser.transcribe(cuts, audio), strict=True):
            problem = result if isinstance(result, Unusable) else find_problem(self._spec, segment, result)
            if problem is not None:
                rejects.append(refuse(segment, self.name, problem.code, problem.detail, recording=recording))
            elif isinstance(result, Heard):
                rows.append(self._row(segment, result))
        return StageResult(rows=rows, rejects=rejects)

    def _row(self, segment: Segment, heard: Heard) -> Transcript:
        return Transcript(
            segment_id=segment.segment_id,
            text=heard.text,
            language=heard.language,
            language_prob=heard.language_prob,
            avg_logprob=heard.avg_logprob,
            asr=self._card_id,
        )


def find_problem(spec: WhisperXSpec | ParakeetSpec | TranscriptSpec, segment: Segment, heard: Heard) -> Unusable | None:
    """The first reason not to trust a text, or None. Given transcripts are trusted unless they are empty."""
    if not any(character.isalnum() for character in heard.text):
        return Unusable(code="empty_transcript", detail=f"the text {heard.text!r} holds no letter and no digit")
    if isinstance(spec, TranscriptSpec):
        return None
    ratio = compression_ratio(heard.text)
    if ratio > spec.max_compression_ratio:
        return Unusable(
            code="repetition",
            detail=f"the text repeats itself: zlib makes it {ratio:.2f} times smaller and "
            f"transcripts.max_compression_ratio is {spec.max_compression_ratio:g}; it begins {heard.text[:60]!r}",
        )
    if heard.avg_logprob is not None and heard.avg_logprob < spec.min_avg_logprob:
        return Unusable(
            code="low_logprob",
            detail=f"the recogniser is unsure: {heard.avg_logprob:.2f} nats per token and "
            f"transcripts.min_avg_logprob is {spec.min_avg_logprob:g}",
        )
    rate = len(heard.text.split()) * SAMPLE_RATE / (segment.end - segment.start)
    if rate > spec.max_words_per_second:
        return Unusable(
            code="rate_out_of_range",
            detail=f"{rate:.1f} words per second is faster than people speak: "
            f"transcripts.max_words_per_second is {spec.max_words_per_second:g}",
        )
    return None


def compression_ratio(text: str) -> float:
    """Bytes of UTF-8 per byte of zlib: Whisper's own sign of a text that loops."""
    raw = text.encode("utf-8")
    return len(raw) / len(zlib.compress(raw))
