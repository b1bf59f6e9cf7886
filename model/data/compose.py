"""Documents from samples: text, speech, interleaved, and the ASR and TTS formats of the paper's Table 5.

text         BOS <t> tokens EOS
speech       BOS <s> units EOS
interleaved  BOS (<t> tokens | <s> units)+ EOS
asr          BOS <s> units <t> tokens EOS
tts          BOS <t> tokens <s> units EOS
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model.data.document import Document, to_bpe
from model.data.interleave import ModalitySpan, PaperRule, SpiritLMRule, draw_spans
from model.data.shards import Sample
from model.data.text_tokenizer import TextTokenizer
from model.network.vocabulary import BOS, EOS, SPEECH_MARK, TEXT_MARK, Vocabulary
from schemas.models.unit_bpe import UnitBpe


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """A passage, or one segment of it, with everything in per-word and per-unit arrays."""

    name: str
    text: str
    char_spans: Sequence[tuple[int, int]]
    """[start, end) in `text` of each word: W of them."""
    words: np.ndarray
    """int32 [W, 2]: first frame, frame after the last."""
    units: np.ndarray
    """uint16 [T]"""
    patch_start: np.ndarray
    """bool [T]"""
    patch_kind: np.ndarray
    """int8 [T]"""
    char_frames: np.ndarray | None
    """int32 [len(text)]: the frame of each character, -1 where unknown."""
    scores: np.ndarray | None = None
    """float16 [W]: the aligner's score of each word, where the shard has them."""

    @property
    def num_words(self) -> int:
        return len(self.char_spans)

    def text_of(self, first: int, last: int) -> tuple[int, int]:
        """[start, end) in `text` of words [first, last), with the punctuation that follows each word.

        Neighbouring ranges share their edge, so that nothing written is lost between two spans.
        """
        start = 0 if first == 0 else self.char_spans[first][0]
        end = len(self.text) if last == self.num_words else self.char_spans[last][0]
        return start, end

    def frames_of(self, first: int, last: int) -> tuple[int, int]:
        """[start, end) frames of words [first, last); the silence at an edge is split in half between the neighbours."""
        start = 0 if first == 0 else self._middle(first)
        end = len(self.units) if last == self.num_words else self._middle(last)
        return start, end

    def _middle(self, word: int) -> int:
        return int(self.words[word - 1, 1] + self.words[word, 0] + 1) // 2


def utterance_of(sample: Sample) -> Utterance:
    """The whole passage as one utterance."""
    meta, frames = sample.meta, len(sample.units)
    starts = np.zeros(frames, dtype=bool)
    starts[sample.patch[:-1]] = True
    kinds = np.repeat(np.asarray(meta.patch_kind, dtype=np.int8), np.diff(sample.patch))
    return Utterance(
        name=meta.key,
        text=meta.text,
        char_spans=meta.words,
        words=sample.words[:, :2],
        units=sample.units,
        patch_start=starts,
        patch_kind=kinds if frames else np.zeros(0, dtype=np.int8),
        char_frames=sample.chars,
        scores=sample.scores,
    )


def segments_of(sample: Sample) -> list[Utterance]:
    """Each segment of the passage as an utterance. Every word is in exactly one of them."""
    whole = utterance_of(sample)
    segments = sample.meta.segments
    edges = np.searchsorted(whole.words[:, 0], [segment.frame_start for segment in segments[1:]]).tolist()
    result = []
    for number, (segment, first, last) in enumerate(
        zip(segments, [0, *edges], [*edges, whole.num_words], strict=True), start=1
    ):
        a, b = segment.frame_start, segment.frame_end
        start, end = whole.text_of(first, last) if last > first else (0, 0)
        frames = whole.char_frames
        result.append(
            Utterance(
                name=f"{whole.name}#{number}",
                text=whole.text[start:end].rstrip(),
                char_spans=[(s - start, e - start) for s, e in whole.char_spans[first:last]],
                words=np.clip(whole.words[first:last] - a, 0, b - a),
                units=whole.units[a:b],
                patch_start=whole.patch_start[a:b],
                patch_kind=whole.patch_kind[a:b],
                char_frames=None if frames is None else np.where(frames[start:end] < 0, -1, frames[start:end] - a),
                scores=None if whole.scores is None else whole.scores[first:last],
            )
        )
    return result


class Composer:
    """Builds documents over one vocabulary. `token_starts` asks for BPE-aligned patch starts, which cost a tokenization;
    with `unit_bpe`, speech is written in its tokens (the vocabulary's units are then they)."""

    def __init__(
        self, tokenizer: TextTokenizer, vocabulary: Vocabulary, token_starts: bool, unit_bpe: UnitBpe | None = None
    ) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.token_starts, self.unit_bpe = token_starts, unit_bpe

    def text(self, text: str, name: str) -> Document:
        """A text document."""
        return self._document([_special(BOS), *self._text(text), _special(EOS)], name)

    def text_of_tokens(self, tokens: np.ndarray, name: str) -> Document:
        """A text document whose tokens (of this tokenizer) are known."""
        ids = tokens.astype(np.int32) + self.vocabulary.text_offset
        return self._document([_special(BOS), _special(TEXT_MARK), _Part(ids=ids), _special(EOS)], name)

    def speech(self, utterance: Utterance) -> Document:
        """A speech document."""
        return self._document(
            [_special(BOS), *self._speech(utterance, 0, utterance.num_words), _special(EOS)], utterance.name
        )

    def interleaved(
        self,
        utterance: Utterance,
        rule: PaperRule | SpiritLMRule,
        rng: np.random.Generator,
        min_word_score: float = 0.0,
    ) -> Document:
        """An interleaved document; the spans are drawn anew from `rng`. Where no word is known, all of it is speech, and so is a
        span of text with a word whose score is under `min_word_score`."""
        if utterance.num_words == 0:
            return self.speech(utterance)
        parts = [_special(BOS)]
        for span in _spoken(utterance, draw_spans(rule, utterance.num_words, rng), min_word_score):
            if span.is_text:
                start, end = utterance.text_of(span.first, span.last)
                parts += self._text(utterance.text[start:end].strip())
            else:
                parts += self._speech(utterance, span.first, span.last)
        return self._document([*parts, _special(EOS)], utterance.name)

    def transcription(
        self, utterance: Utterance, kind: Literal["asr", "tts"], loss_on: Literal["all", "answer"]
    ) -> Document:
        """Speech then its text (asr) or text then its speech (tts); the loss on everything or on what follows the prompt."""
        spoken = self._speech(utterance, 0, utterance.num_words)
        written = self._text(utterance.text)
        prompt, answer = (spoken, written) if kind == "asr" else (written, spoken)
        document = _document([_special(BOS), *prompt, *answer, _special(EOS)], utterance.name)
        if loss_on == "answer":
            document.target[: 1 + sum(len(part.ids) for part in prompt) + 1] = False  # BOS, prompt, mark of the answer
        return self._in_tokens(document)

    def _document(self, parts: list[_Part], name: str) -> Document:
        return self._in_tokens(_document(parts, name))

    def _in_tokens(self, document: Document) -> Document:
        return document if self.unit_bpe is None else to_bpe(document, self.vocabulary, self.unit_bpe)

    def _text(self, text: str) -> list[_Part]:
        ids = np.asarray(self.tokenizer.encode(text)[0], dtype=np.int32) + self.vocabulary.text_offset
        return [_special(TEXT_MARK), _Part(ids=ids)]

    def _speech(self, utterance: Utterance, first: int, last: int) -> list[_Part]:
        start, end = utterance.frames_of(first, last) if last > first else (0, len(utterance.units))
        patch_start = utterance.patch_start[start:end].copy()
        patch_start[:1] = True  # a silence that was split in half begins anew
        return [
            _special(SPEECH_MARK),
            _Part(
                ids=utterance.units[start:end].astype(np.int32) + self.vocabulary.unit_offset,
                patch_start=patch_start,
                patch_kind=utterance.patch_kind[start:end],
                token_start=self._token_starts(utterance, first, last, start, end),
            ),
        ]

    def _token_starts(self, utterance: Utterance, first: int, last: int, start: int, end: int) -> np.ndarray:
        starts = np.zeros(end - start, dtype=bool)
        if not self.token_starts or utterance.char_frames is None or last == first:
            return starts
        begin, stop = utterance.text_of(first, last)
        for character in self.tokenizer.encode(utterance.text[begin:stop])[1]:
            position = begin + character
            while position < stop and utterance.text[position].isspace():  # a token may carry the space before it
                position += 1
            frame = int(utterance.char_frames[position]) if position < stop else -1
            if start <= frame < end:
                starts[frame - start] = True
        return starts


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A run of elements; the patch arrays are None where the elements are not units."""

    ids: np.ndarray
    patch_start: np.ndarray | None = None
    patch_kind: np.ndarray | None = None
    token_start: np.ndarray | None = None


def _special(element: int) -> _Part:
    return _Part(ids=np.asarray([element], dtype=np.int32))


def _spoken(utterance: Utterance, spans: list[ModalitySpan], min_word_score: float) -> list[ModalitySpan]:
    """The spans, where one that has no frame to be spoken in is written instead (more words than frames), and text with a word
    that was hardly heard is spoken; neighbours that are alike then become one."""
    result: list[ModalitySpan] = []
    for span in spans:
        start, end = utterance.frames_of(span.first, span.last)
        scores = None if utterance.scores is None else utterance.scores[span.first : span.last]
        doubtful = scores is not None and bool((scores < min_word_score).any())
        is_text = (span.is_text and not doubtful) or end <= start
        if result and result[-1].is_text == is_text:
            result[-1] = result[-1]._replace(last=span.last)
        else:
            result.append(span._replace(is_text=is_text))
    return result


def _document(parts: list[_Part], name: str) -> Document:
    ids = np.concatenate([part.ids for part in parts])
    target = np.ones(len(ids), dtype=bool)
    target[0] = False

    def column(attribute: str, missing: int, dtype: type) -> np.ndarray:
        pieces = [getattr(part, attribute) for part in parts]
        filled = [
            np.full(len(part.ids), missing, dtype=dtype) if piece is None else piece
            for part, piece in zip(parts, pieces, strict=True)
        ]
        return np.concatenate(filled).astype(dtype, copy=False)

    return Document(
        ids=ids,
        is_unit=np.concatenate([np.full(len(part.ids), part.patch_start is not None) for part in parts]),
        patch_start=column("patch_start", 0, bool),
        patch_kind=column("patch_kind", -1, np.int8),
        token_start=column("token_start", 0, bool),
        target=target,
        sample_id=name,
    )
