"""Stage `words`: when each word of a transcript is said. The aligners are backends behind one Protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.align.base import AlignError, Alignment, BatchAligner, SecondWitness, WordAligner
from pipeline.align.belief import by_word, judge, judge_beside_others, loud_between, uncovered_share, witnessed
from pipeline.align.place import place_words
from pipeline.networks.ahead import made_ahead
from pipeline.source.base import AudioReader
from pipeline.stage import StageResult, refuse, rows_of
from pipeline.text.tokens import Token, tokenise
from schemas.arrow import Row
from schemas.cards import Card
from schemas.spec import CtcSpec, QwenAlignSpec, SoundSwallowerSpec, WhisperXAlignSpec
from schemas.tables import Recording, Reject, RejectCode, Segment, Transcript, Word

_Aligned = tuple[Sequence[Token], Alignment]
AlignerSpec = SoundSwallowerSpec | CtcSpec | QwenAlignSpec | WhisperXAlignSpec
CHUNK_BATCHES = 8
"""Batches that are read at once, to be sorted by length."""


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

    name = Word.TABLE
    version = 8
    inputs: tuple[str, ...] = (Transcript.TABLE, Segment.TABLE, Recording.TABLE)

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

    def halve_batch(self) -> bool:
        """See `pipeline.stage.Batched`."""
        if not isinstance(self._aligner, BatchAligner):
            return False
        self._aligner.batch_size, before = max(self._aligner.batch_size // 2, 1), self._aligner.batch_size
        return self._aligner.batch_size < before

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """Words of each transcript; a segment whose words are not found well enough is a reject as a whole."""
        segments = {row.segment_id: row for row in rows_of(tables, Segment)}
        recordings = {row.recording_id: row for row in rows_of(tables, Recording)}
        rows: list[Word] = []
        rejects: list[Reject] = []
        transcripts = rows_of(tables, Transcript)
        size = self._aligner.batch_size if isinstance(self._aligner, BatchAligner) else 1
        chunks = [
            transcripts[first : first + size * CHUNK_BATCHES]
            for first in range(0, len(transcripts), size * CHUNK_BATCHES)
        ]

        def read(chunk: Sequence[Transcript]) -> list[np.ndarray]:
            cuts = [segments[row.segment_id] for row in chunk]
            # Copies: a view of a few seconds would keep the whole recording in memory for as long as its chunk waits.
            return [audio.read(recordings[cut.recording_id], cut.channel)[cut.start : cut.end].copy() for cut in cuts]

        for chunk, clips in zip(chunks, made_ahead(read, chunks, ahead=size > 1), strict=True):
            aligned = [self._aligned(*clip) for clip in zip(chunk, clips, self._hear(clips, size), strict=True)]
            for transcript, samples, found in zip(chunk, clips, self._asked(aligned), strict=True):
                try:
                    rows += self._words(transcript, samples, found)
                except _Rejected as error:
                    segment = segments[transcript.segment_id]
                    rejects.append(
                        refuse(segment, self.name, error.code, error.detail, recording=recordings[segment.recording_id])
                    )
        return StageResult(rows=rows, rejects=rejects)

    def _hear(self, clips: Sequence[np.ndarray], size: int) -> Sequence[np.ndarray | None]:
        """What the network makes of clips in batches of like length, or None for each where they go one by one."""
        if size == 1 or not isinstance(self._aligner, BatchAligner):
            return [None] * len(clips)
        order = sorted(
            range(len(clips)), key=lambda place: len(clips[place])
        )  # like lengths share a batch: little padding
        heard: dict[int, np.ndarray] = {}
        for first in range(0, len(order), size):
            places = order[first : first + size]
            heard |= zip(places, self._aligner.hear([clips[place] for place in places]), strict=True)
        return [heard[place] for place in range(len(clips))]

    def _aligned(self, transcript: Transcript, samples: np.ndarray, heard: np.ndarray | None) -> _Aligned | _Rejected:
        tokens = tokenise(transcript.text, transcript.language)
        if not tokens:
            return _Rejected("align_failed", f"the transcript {transcript.text!r} holds no word that can be spoken")
        try:
            if heard is not None and isinstance(self._aligner, BatchAligner):
                alignment = self._aligner.align_heard(heard, samples, tokens)
            else:
                alignment = self._aligner.align(samples, tokens, transcript.language)
        except AlignError as error:
            return _Rejected("align_failed", str(error))
        assert len(alignment.timings) == len(tokens), "an aligner returns one timing per token"
        return tokens, alignment

    def _asked(self, aligned: Sequence[_Aligned | _Rejected]) -> list[_Aligned | _Rejected]:
        """The same with what the aligner's second witness says of them: all that were aligned in one step."""
        asked = [item for item in aligned if not isinstance(item, _Rejected)]
        if not isinstance(self._aligner, SecondWitness) or not asked:
            return list(aligned)
        answers = iter(self._aligner.ask(asked))
        return [item if isinstance(item, _Rejected) else _answered(item[0], next(answers)) for item in aligned]

    def _words(self, transcript: Transcript, samples: np.ndarray, aligned: _Aligned | _Rejected) -> list[Word]:
        if isinstance(aligned, _Rejected):
            raise aligned
        tokens, alignment = aligned
        try:
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
        bound = self._spec.min_word_score
        heard = [witnessed(*pair, bound).timing == "aligned" for pair in zip(timings, tokens, strict=True)]
        coverage = sum(heard) / len(heard)
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
            for index, (token, timing) in enumerate(
                zip(tokens, judge_beside_others(timings, tokens, bound), strict=True)
            )
        ]


def _answered(tokens: Sequence[Token], answer: Alignment | AlignError) -> _Aligned | _Rejected:
    return _Rejected("align_failed", str(answer)) if isinstance(answer, AlignError) else (tokens, answer)


class _Rejected(Exception):
    def __init__(self, code: RejectCode, detail: str) -> None:
        super().__init__(detail)
        self.code: RejectCode = code
        self.detail = detail
