"""Stage `text_quality` (optional): measures of each transcript, and thresholds on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.measures import text as measures
from pipeline.source.base import AudioReader
from pipeline.stage import StageResult, WithoutModel, refuse, rows_of
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.spec import TextQualitySpec
from schemas.tables import Recording, Reject, RejectCode, Segment, TextQuality, Transcript


class TextQualityStage(WithoutModel):
    """Measures of a text. Rejects: wrong_language, hallucination, repetition, rate_out_of_range."""

    name = TextQuality.TABLE
    version = 1
    inputs: tuple[str, ...] = (Transcript.TABLE, Segment.TABLE, Recording.TABLE)

    def __init__(self, spec: TextQualitySpec) -> None:
        self._spec = spec

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """A row per transcript that passes."""
        recordings = {row.recording_id: row for row in rows_of(tables, Recording)}
        segments = {row.segment_id: row for row in rows_of(tables, Segment)}
        rows: list[TextQuality] = []
        rejects: list[Reject] = []
        for transcript in rows_of(tables, Transcript):
            segment = segments[transcript.segment_id]
            hint = recordings[segment.recording_id].language_hint
            row = measure(transcript, (segment.end - segment.start) / SAMPLE_RATE, hint)
            problem = find_problem(self._spec, row, transcript, hint)
            if problem is None:
                rows.append(row)
            else:
                rejects.append(refuse(segment, self.name, *problem, recording=recordings[segment.recording_id]))
        return StageResult(rows=rows, rejects=rejects)


def measure(transcript: Transcript, seconds: float, hint: str | None) -> TextQuality:
    """All measures of a transcript of a segment that lasts so long."""
    return TextQuality(
        segment_id=transcript.segment_id,
        words_per_second=float(np.float32(len(transcript.text.split()) / seconds)),
        hallucinated=float(np.float32(measures.hallucinated(transcript.text))),
        looped=float(np.float32(measures.looped(transcript.text))),
        as_hinted=measures.agrees(transcript.language, hint),
    )


def find_problem(
    spec: TextQualitySpec, row: TextQuality, transcript: Transcript, hint: str | None
) -> tuple[RejectCode, str] | None:
    """The first threshold that a transcript does not meet: its code, and a sentence."""
    heard, begins = transcript.language, f"the text begins {transcript.text[:60]!r}"
    if spec.languages is not None and not any(measures.agrees(heard, name) for name in spec.languages):
        return "wrong_language", f"heard {heard} and text_quality.languages is {', '.join(spec.languages)}; {begins}"
    if spec.as_hinted and row.as_hinted is False:
        return "wrong_language", f"heard {heard} and the manifest says {hint}; {begins}"
    if spec.max_hallucinated is not None and row.hallucinated > spec.max_hallucinated:
        return "hallucination", f"{row.hallucinated:.0%} of it is what Whisper says where nobody speaks; {begins}"
    if spec.max_looped is not None and row.looped > spec.max_looped:
        return (
            "repetition",
            f"{row.looped:.0%} of its words repeat on end and max_looped is {spec.max_looped:.0%}; {begins}",
        )
    rate = row.words_per_second
    if spec.min_words_per_second is not None and rate < spec.min_words_per_second:
        return "rate_out_of_range", f"{rate:.2f} words per second, fewer than {spec.min_words_per_second:g}; {begins}"
    if spec.max_words_per_second is not None and rate > spec.max_words_per_second:
        return "rate_out_of_range", f"{rate:.2f} words per second, more than {spec.max_words_per_second:g}; {begins}"
    return None
