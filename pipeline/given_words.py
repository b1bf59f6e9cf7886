"""Stage `words`, backend `given`: the words that came with the recordings, at the times that came with them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import pairwise

from pipeline.align.base import AlignError, WordTiming
from pipeline.align.place import place_words
from pipeline.asr.given import WordsByTime
from pipeline.source.base import AudioReader
from pipeline.stage import StageResult, WithoutModel, rows_of
from pipeline.text.tokens import tokenise
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.cards import NO_MODEL, Card
from schemas.given import Given, GivenWord, load_given
from schemas.spec import GivenWordsSpec
from schemas.tables import Recording, Reject, RejectCode, Segment, Transcript, Word

IGNORED = frozenset("ZPC")
"""Unicode categories (separators, punctuation, control) by which a transcript and its given words may differ."""


class GivenWordsStage(WithoutModel):
    """Given words found in each transcript. No audio is read. Rejects: align_failed, align_coverage."""

    name = Word.TABLE
    version = 1
    inputs: tuple[str, ...] = (Transcript.TABLE, Segment.TABLE, Recording.TABLE)

    def __init__(self, spec: GivenWordsSpec) -> None:
        self._spec = spec
        self._card = Card(kind="aligner", name="given", facts={"source": "corpus"}, notes={"license": NO_MODEL})

    def cards(self) -> list[Card]:
        """Not a model, but where the times come from."""
        return [self._card]

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """Words of each transcript; a segment whose given words are not those of its transcript is a reject as a whole."""
        segments = {row.segment_id: row for row in rows_of(tables, Segment)}
        recordings = {row.recording_id: row for row in rows_of(tables, Recording)}
        rows: list[Word] = []
        rejects: list[Reject] = []
        came = ("", Given(), WordsByTime([]))
        for transcript in rows_of(tables, Transcript):
            segment = segments[transcript.segment_id]
            recording = recordings[segment.recording_id]
            if came[0] != recording.recording_id:  # once per recording: hours of words are a large column
                given = load_given(recording.given)
                came = (recording.recording_id, given, WordsByTime(given.words))
            try:
                rows += self._words(transcript, segment, recording, came[1], came[2].of(segment))
            except AlignError as error:
                rejects.append(_reject(segment, "align_failed", str(error)))
            except _Coverage as error:
                rejects.append(_reject(segment, "align_coverage", str(error)))
        return StageResult(rows=rows, rejects=rejects)

    def _words(
        self, transcript: Transcript, segment: Segment, recording: Recording, given: Given, words: Sequence[GivenWord]
    ) -> list[Word]:
        if not words:
            why = given.words_problem or f"no words came with {recording.uri}"
            raise AlignError(why if not given.words else f"{given.words_place} has no word within this segment")
        for one, other in pairwise(words):
            if other[1] < one[2]:
                at = f"{other[0]!r} at {other[1] / SAMPLE_RATE:.3f} s begins before {one[0]!r} ends"
                raise AlignError(f"the words of {given.words_place} overlap: {at}")
        length = segment.end - segment.start
        timings = [_timing(word, segment) for word in words]
        spans = find_words(transcript.text, [word[0] for word in words])
        if spans is None:
            tokens = tokenise(transcript.text, transcript.language)
            spans = [(token.char_start, token.char_end) for token in tokens]
            timings = _by_token([token.text for token in tokens], [word[0] for word in words], timings)
        kept = [(span, timing) for span, timing in zip(spans, timings, strict=True) if span[0] < span[1]]
        spans = [span for span, _ in kept]
        placed = place_words([timing for _, timing in kept], [end - start for start, end in spans], length)
        coverage = sum(timing.timing == "aligned" for timing in placed) / len(placed)
        if coverage < self._spec.min_coverage:
            raise _Coverage(
                f"{coverage:.0%} of the transcript's {len(placed)} words have a time in {given.words_place} and "
                f"words.min_coverage is {self._spec.min_coverage:.0%}"
            )
        return [
            Word(
                segment_id=transcript.segment_id,
                word_index=index,
                text=transcript.text[start:end],
                char_start=start,
                char_end=end,
                start=timing.start,
                end=timing.end,
                char_times=[],
                score=timing.score,
                timing=timing.timing,
                aligner=self._card.card_id,
            )
            for index, ((start, end), timing) in enumerate(zip(spans, placed, strict=True))
        ]


class _Coverage(Exception):
    """Too few words of a transcript have a given time."""


def _timing(word: GivenWord, segment: Segment) -> WordTiming | None:
    """A word's place in its segment; a word of no length (a CTM has them) is put between its neighbours."""
    start, end = max(word[1], segment.start), min(word[2], segment.end)
    if start >= end:
        return None
    return WordTiming(start=start - segment.start, end=end - segment.start, score=1.0, timing="aligned")


def find_words(text: str, words: Sequence[str]) -> list[tuple[int, int]] | None:
    """[char_start, char_end) of each word in the text, where both hold the same letters and digits in the same order; else None.

    Case, punctuation and how the text is split do not matter ("don't" may come as "do" and "n't"). A word of punctuation alone
    has an empty span.
    """
    letters = [(letter, index) for index, character in enumerate(text) for letter in _letters(character)]
    spelt = [_letters(word) for word in words]
    if "".join(spelt) != "".join(letter for letter, _ in letters):
        return None
    spans: list[tuple[int, int]] = []
    position = end = 0
    for word in spelt:
        if not word:
            spans.append((end, end))
            continue
        start, end = letters[position][1], letters[position + len(word) - 1][1] + 1
        if spans and start < spans[-1][1]:
            return None  # two words share a character, such as a ligature
        spans.append((start, end))
        position += len(word)
    return spans


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in folded if unicodedata.category(letter)[0] not in IGNORED)


def _by_token(
    tokens: Sequence[str], words: Sequence[str], timings: Sequence[WordTiming | None]
) -> list[WordTiming | None]:
    """A timing per token of a transcript that differs from the given words: equal ones keep theirs, as many exchanged ones are
    flagged as guessed, the others have none.
    """
    found: list[WordTiming | None] = [None] * len(tokens)
    matcher = SequenceMatcher(
        a=[_letters(token) for token in tokens], b=[_letters(word) for word in words], autojunk=False
    )
    for kind, a, a_end, b, b_end in matcher.get_opcodes():
        if kind == "equal" or (kind == "replace" and a_end - a == b_end - b):
            for offset in range(a_end - a):
                timing = timings[b + offset]
                if timing is not None and kind == "replace":
                    timing = WordTiming(start=timing.start, end=timing.end, score=0.0, timing="star")
                found[a + offset] = timing
    return found


def _reject(segment: Segment, code: RejectCode, detail: str) -> Reject:
    return Reject(
        id=segment.segment_id,
        stage=GivenWordsStage.name,
        code=code,
        detail=detail,
        retriable=False,
        attempts=1,
        seconds=(segment.end - segment.start) / SAMPLE_RATE,
    )
