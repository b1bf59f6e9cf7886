"""Stage `words`: when each word of a transcript is said. The aligners are backends behind one Protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.align.base import AlignError, WordAligner
from pipeline.align.belief import by_word, judge, loud_between, uncovered_share
from pipeline.align.place import place_words
from pipeline.source.base import AudioReader
from pipeline.stage import StageResult, refuse, rows_of
from pipeline.text.tokens import tokenise
from schemas.arrow import Row
from schemas.cards import Card
from schemas.spec import CtcSpec, QwenAlignSpec, SoundSwallowerSpec, WhisperXAlignSpec
from schemas.tables import Recording, Reject, RejectCode, Segment, Transcript, Word

AlignerSpec = SoundSwallowerSpec | CtcSpec | QwenAlignSpec | WhisperXAlignSpec


def make_aligner(spec: AlignerSpec) -> WordAligner:
    """The backend that the spec names. Nothing is loaded."""
    if isinstance(spec, CtcSpec):
        from pipeline.align.ctc import CtcAligner

        return CtcAligner(spec)
    if isinstance(spec, WhisperXAlignSpec):
        from pipeline.align.whisperx import WhisperXAligner

        return WhisperXAligner(spec)
    if isinstance(spec, QwenAlignSpec):
        from pipeline.align.qwen3 import QwenAligner

        return QwenAligner(spec)
    from pipeline.align.soundswallower import SoundSwallowerAligner

    return SoundSwallowerAligner()


class WordsStage:
    """Aligns each segment's transcript to its audio. Rejects: align_failed, align_coverage."""

    name = "words"
    version = 2
    inputs: tuple[str, ...] = ("transcripts", "segments", "recordings")

    def __init__(self, spec: AlignerSpec, aligner: WordAligner | None = None) -> None:
        self._spec = spec
        self._aligner = aligner if aligner is not None else make_aligner(spec)
        self._card_id = ""

    def cards(self) -> list[Card]:
        """The aligner's."""
        return [self._aligner.card()]

    def open(self) -> None:
        """Load the aligner."""
        self._card_id = self._aligner.card().card_id
        self._aligner.open()

    def close(self) -> None:
        """Release the aligner."""
        self._aligner.close()

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """Words of each transcript; a segment whose words are not found well enough is a reject as a whole."""
        segments = {row.segment_id: row for row in rows_of(tables, "segments", Segment)}
        recordings = {row.recording_id: row for row in rows_of(tables, "recordings", Recording)}
        rows: list[Word] = []
        rejects: list[Reject] = []
        for transcript in rows_of(tables, "transcripts", Transcript):
            segment = segments[transcript.segment_id]
            samples = audio.read(recordings[segment.recording_id], segment.channel)[segment.start : segment.end]
            try:
                rows += self._words(transcript, samples)
            except _Rejected as error:
                rejects.append(refuse(segment, self.name, error.code, error.detail))
        return StageResult(rows=rows, rejects=rejects)

    def _words(self, transcript: Transcript, samples: np.ndarray) -> list[Word]:
        tokens = tokenise(transcript.text, transcript.language)
        if not tokens:
            raise _Rejected("align_failed", f"the transcript {transcript.text!r} holds no word that can be spoken")
        try:
            alignment = self._aligner.align(samples, tokens, transcript.language)
            assert len(alignment.timings) == len(tokens), "an aligner returns one timing per token"
            placed = place_words(alignment.timings, [len(token.text) for token in tokens], len(samples))
        except AlignError as error:
            raise _Rejected("align_failed", str(error)) from error
        timings = judge(placed, tokens, samples, self._spec.min_word_score)
        uncovered = loud_between(samples, timings) if alignment.uncovered is None else alignment.uncovered
        share = uncovered_share(timings, tokens, uncovered)
        if share > self._spec.max_uncovered:
            raise _Rejected(
                "align_coverage",
                f"{share:.0%} of the speech is covered by no word of the transcript and words.max_uncovered is "
                f"{self._spec.max_uncovered:.0%}",
            )
        beside = by_word(uncovered, timings)
        coverage = sum(timing.timing == "aligned" for timing in timings) / len(timings)
        if coverage < self._spec.min_coverage:
            raise _Rejected(
                "align_coverage",
                f"{coverage:.0%} of {len(tokens)} words were heard for certain and words.min_coverage is "
                f"{self._spec.min_coverage:.0%}",
            )
        return [
            Word(
                segment_id=transcript.segment_id,
                word_index=index,
                text=token.text,
                char_start=token.char_start,
                char_end=token.char_end,
                start=timing.start,
                end=timing.end,
                char_times=list(timing.char_times),
                score=float(np.float32(timing.score)),
                timing=timing.timing,
                aligner=self._card_id,
                uncovered=beside[index],
            )
            for index, (token, timing) in enumerate(zip(tokens, timings, strict=True))
        ]


class _Rejected(Exception):
    def __init__(self, code: RejectCode, detail: str) -> None:
        super().__init__(detail)
        self.code: RejectCode = code
        self.detail = detail
