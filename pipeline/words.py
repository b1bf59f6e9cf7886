"""Stage `words`: when each word of a transcript is said. The aligners are backends behind one Protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from pipeline.normalise import Token, tokenise
from pipeline.stage import AudioReader, StageResult
from schemas.arrow import Row
from schemas.cards import Card
from schemas.spec import CtcSpec, SoundSwallowerSpec, WhisperXAlignSpec
from schemas.tables import SAMPLE_RATE, Recording, Reject, RejectCode, Segment, Transcript, Word

MIN_WORD = 320
"""20 ms: what an interpolated word is given at least, where its neighbours can spare it."""


@dataclass(frozen=True, kw_only=True)
class WordTiming:
    """When a token is said: [start, end) in 16 kHz samples from the segment's start."""

    start: int
    end: int
    score: float
    """In [0, 1]; larger is better. Comparable between words of one aligner only."""
    timing: Literal["aligned", "star", "interpolated"]
    """aligned: heard. star: heard, its sounds or letters guessed. interpolated: put between neighbours, not heard."""
    char_times: tuple[int, ...] = ()
    """The start of each character of the token's text, or nothing."""


class AlignError(Exception):
    """The audio and the text could not be brought together; the message is a sentence for the reject."""


class WordAligner(Protocol):
    """A forced aligner: opened once per worker, then one segment at a time."""

    def card(self) -> Card:
        """What the aligner is; cheap, nothing is loaded.

        Raises:
            ConfigError: its model is missing.
        """
        ...

    def open(self) -> None:
        """Load the model."""
        ...

    def align(self, audio: np.ndarray, tokens: Sequence[Token], language: str) -> Sequence[WordTiming | None]:
        """One timing per token, ordered and without overlap, within float32 [num_samples] at 16 kHz.

        None where the aligner has no way to hear the token: the stage interpolates it. `tokens` is never empty.

        Raises:
            AlignError: the whole segment cannot be aligned.
        """
        ...

    def close(self) -> None:
        """Release the model."""
        ...


def make_aligner(spec: SoundSwallowerSpec | CtcSpec | WhisperXAlignSpec) -> WordAligner:
    """The backend that the spec names. Nothing is loaded."""
    if isinstance(spec, CtcSpec):
        from pipeline.ctc_aligner import CtcAligner

        return CtcAligner(spec)
    if isinstance(spec, WhisperXAlignSpec):
        from pipeline.whisperx_aligner import WhisperXAligner

        return WhisperXAligner(spec)
    from pipeline.soundswallower_aligner import SoundSwallowerAligner

    return SoundSwallowerAligner()


class WordsStage:
    """Aligns each segment's transcript to its audio. Rejects: align_failed, align_coverage."""

    name = "words"
    version = 1
    inputs: tuple[str, ...] = ("transcripts", "segments", "recordings")

    def __init__(
        self, spec: SoundSwallowerSpec | CtcSpec | WhisperXAlignSpec, aligner: WordAligner | None = None
    ) -> None:
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
        segments = {row.segment_id: row for row in tables["segments"] if isinstance(row, Segment)}
        recordings = {row.recording_id: row for row in tables["recordings"] if isinstance(row, Recording)}
        rows: list[Word] = []
        rejects: list[Reject] = []
        for transcript in tables["transcripts"]:
            assert isinstance(transcript, Transcript)
            segment = segments[transcript.segment_id]
            samples = audio.read(recordings[segment.recording_id], segment.channel)[segment.start : segment.end]
            try:
                rows += self._words(transcript, samples)
            except _Rejected as error:
                rejects.append(_reject(segment, error))
        return StageResult(rows=rows, rejects=rejects)

    def _words(self, transcript: Transcript, samples: np.ndarray) -> list[Word]:
        tokens = tokenise(transcript.text, transcript.language)
        if not tokens:
            raise _Rejected("align_failed", f"the transcript {transcript.text!r} holds no word that can be spoken")
        try:
            found = self._aligner.align(samples, tokens, transcript.language)
            assert len(found) == len(tokens), "an aligner returns one timing per token"
            timings = place_words(found, [len(token.text) for token in tokens], len(samples))
        except AlignError as error:
            raise _Rejected("align_failed", str(error)) from error
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
            )
            for index, (token, timing) in enumerate(zip(tokens, timings, strict=True))
        ]


class _Rejected(Exception):
    def __init__(self, code: RejectCode, detail: str) -> None:
        super().__init__(detail)
        self.code: RejectCode = code
        self.detail = detail


def _reject(segment: Segment, error: _Rejected) -> Reject:
    return Reject(
        id=segment.segment_id,
        stage=WordsStage.name,
        code=error.code,
        detail=error.detail,
        retriable=False,
        attempts=1,
        seconds=(segment.end - segment.start) / SAMPLE_RATE,
    )


def place_words(found: Sequence[WordTiming | None], lengths: Sequence[int], num_samples: int) -> list[WordTiming]:
    """Give the tokens without timing a place between their neighbours, in proportion to their lengths in characters.

    Where the neighbours leave less than MIN_WORD per token they give up half of theirs, and are flagged as well.

    Raises:
        AlignError: no token was found, or the segment is too short for its words.
    """
    placed = list(found)
    if all(timing is None for timing in placed):
        raise AlignError("not one word of the transcript could be aligned")
    index = 0
    while index < len(placed):
        if placed[index] is not None:
            index += 1
            continue
        stop = index
        while stop < len(placed) and placed[stop] is None:
            stop += 1
        _fill(placed, index, stop, lengths, num_samples)
        index = stop
    timings = [timing for timing in placed if timing is not None]
    end = 0
    for timing in timings:
        if not end <= timing.start < timing.end <= num_samples:
            raise AlignError("the segment is too short for the words of its transcript")
        end = timing.end
    return timings


def _fill(placed: list[WordTiming | None], first: int, stop: int, lengths: Sequence[int], num_samples: int) -> None:
    """Place tokens [first, stop), all None, between their placed neighbours (or the segment's ends)."""
    before = placed[first - 1] if first else None
    after = placed[stop] if stop < len(placed) else None
    low = before.end if before else 0
    high = after.start if after else num_samples
    if high - low < MIN_WORD * (stop - first):
        if before is not None:
            low = before.end - (before.end - before.start) // 2
            placed[first - 1] = replace(before, end=low, timing="interpolated", char_times=())
        if after is not None:
            high = after.start + (after.end - after.start) // 2
            placed[stop] = replace(after, start=high, timing="interpolated", char_times=())
    if high - low < stop - first:
        raise AlignError("the segment is too short for the words of its transcript")
    weights = np.cumsum([0, *(max(1, lengths[index]) for index in range(first, stop))])
    spare = high - low - (stop - first)  # every word has one sample for certain, the rest is shared out
    edges = [low + offset + int(spare * int(weight) // int(weights[-1])) for offset, weight in enumerate(weights)]
    for offset, index in enumerate(range(first, stop)):
        placed[index] = WordTiming(start=edges[offset], end=edges[offset + 1], score=0.0, timing="interpolated")
