"""Words and characters in time, from the emissions of a letter CTC model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.align.base import AlignError, Alignment, WordTiming
from pipeline.align.belief import least_fit, loud_between, runs, united
from pipeline.align.ctc_model import Alphabet, CtcModel
from pipeline.align.loudness import loud_steps, offset, onset
from pipeline.align.parakeet import ParakeetPieces
from pipeline.align.viterbi import TokenSpan, TooShort, token_spans, viterbi, with_star
from pipeline.align.whisper_letters import WhisperLetters
from pipeline.networks.resolver import ctc_model, licence_notes
from pipeline.text.languages import language_code
from pipeline.text.romanise import check_romaniser, is_romanised, romanised
from pipeline.text.tokens import Token
from schemas.cards import Card
from schemas.spec import CtcSpec

TOUCHING = 640
"""40 ms: words closer than this leave no pause; the first ends where the second begins."""
FIRST_LETTER = 0.5
"""What a word's first letter counts beside the means over all of its letters and over their frames: ends of words are slurred
or silent, beginnings hardly ever are."""
MIN_UNCOVERED = 6_400
"""400 ms: what is left out of a transcript is a word at least; less between two words belongs to them."""
MAX_BREAK = 3_200
"""200 ms: uncovered speech goes on over pauses that are shorter."""
UNCOVERED_PRICE = 2.0
"""Nats per frame that speech between two words costs more than its likeliest letters: the right words are cheaper, and words
that are not there do not stretch over what is."""


class CtcAligner:
    """Viterbi over the letters of the spoken words, with the model's word delimiter between them where it has one.

    Characters without a letter in the model (digits that no rule speaks out, other scripts) are the star, which matches any
    one letter; their words are flagged `star`. Word starts are placed within a frame by the posteriors on both sides.
    """

    def __init__(self, spec: CtcSpec):
        self._spec = spec
        self._model: CtcModel | WhisperLetters | ParakeetPieces
        if spec.format == "whisper":
            self._model = WhisperLetters(spec)
        else:
            self._model = ParakeetPieces(spec) if spec.format == "parakeet" else CtcModel(spec)

    def card(self) -> Card:
        """Hashes of the model's files and the version of the rules above."""
        facts: dict[str, Any] = {"files": self._model.files(), "rules": "ctc-viterbi-gaps-7"}
        if self._spec.dtype != "float32":
            facts["dtype"] = self._spec.dtype
        name = f"ctc-{Path(self._spec.model.partition('@')[0]).name.lower()}"
        return Card(kind="aligner", name=name, facts=facts, notes=licence_notes(ctc_model(self._spec)))

    def open(self) -> None:
        """Load the model.

        Raises:
            ConfigError: its letters are romanised and uroman is not installed.
        """
        if is_romanised(self._spec):
            check_romaniser(self._spec.model)
        self._model.open()

    def close(self) -> None:
        """Release the model."""
        self._model.close()

    def align(self, audio: np.ndarray, tokens: Sequence[Token], language: str) -> Alignment:
        """A timing per token; None for a token of which nothing is spoken. And the speech that no word covers.

        Raises:
            AlignError: too short for its letters, or they are not what is heard (the message says the score).
        """
        if not isinstance(self._model, WhisperLetters):
            return self.align_heard(self._model.log_probs(audio), audio, tokens)
        emissions, sound = self._model.listen(audio)
        if sound is None or language_code(language) != "en":
            return self.align_heard(emissions, audio, tokens)
        # What the letters alone would refuse the decoder may lift: `ask` decides.
        return replace(self._align(emissions, audio, tokens, least_fit(self._spec.min_score)), sound=sound)

    def ask(self, segments: Sequence[tuple[Sequence[Token], Alignment]]) -> list[Alignment | AlignError]:
        """See `SecondWitness`: by the decoder, where the model has one that is asked."""
        witness = self._model.witness if isinstance(self._model, WhisperLetters) else None
        if witness is None:
            return [alignment for _, alignment in segments]
        return witness.ask(segments, self._spec.min_score)

    @property
    def batch_size(self) -> int:
        """See `BatchAligner`."""
        return self._model.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._model.batch_size = size

    def hear(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `BatchAligner`."""
        return self._model.log_probs_batch(clips)

    def align_heard(self, emissions: np.ndarray, audio: np.ndarray, tokens: Sequence[Token]) -> Alignment:
        """See `BatchAligner`."""
        return self._align(emissions, audio, tokens, self._spec.min_score)

    def _align(self, emissions: np.ndarray, audio: np.ndarray, tokens: Sequence[Token], least: float) -> Alignment:
        spoken = [romanised(token) for token in tokens] if is_romanised(self._spec) else tokens
        alignment = align_emissions(
            emissions, self._model.alphabet, self._model.grid.hop, audio, spoken, self._model.letters_fill_sound
        )
        if alignment.fit is not None and alignment.fit < least:
            raise AlignError(
                f"the letters of the transcript are {alignment.fit:.3f} times as probable as what is heard in their place, "
                f"and words.min_score is {self._spec.min_score:g}: text and audio do not belong together"
            )
        return alignment


def align_emissions(
    emissions: np.ndarray,
    alphabet: Alphabet,
    hop: int,
    audio: np.ndarray,
    tokens: Sequence[Token],
    letters_fill_sound: bool = False,
) -> Alignment:
    """`CtcAligner.align` from float32 [T, labels] log probabilities on.

    `letters_fill_sound`: the model was trained to give each letter all of its sound, so that its probabilities say where words
    begin and end. Otherwise the loudness of the `audio` tells, as far as it can.

    Raises:
        AlignError: too short for its letters, or the alphabet lacks most of them.
    """
    targets, owners = _targets(tokens, alphabet)
    if not (owners >= 0).any():
        raise AlignError("the transcript has no characters to align")
    _check_script(tokens, targets, owners, alphabet)
    starred = _with_gap(_with_silence(with_star(emissions, alphabet.letters), alphabet), alphabet)
    try:
        path, uncovered = _path(starred, targets, owners, alphabet, hop)
    except TooShort as error:
        raise AlignError(f"the segment is too short for its transcript: {str(error).partition(': ')[2]}") from error
    # Beside the best label of each frame, so that a score means the same for a sharp model and for an unsure one.
    spans = token_spans(path, starred - starred[:, :-1].max(axis=1, keepdims=True), targets)
    words = [[spans[index] for index in np.flatnonzero(owners == word)] for word in range(len(tokens))]
    columns = [[int(targets[index]) for index in np.flatnonzero(owners == word)] for word in range(len(tokens))]
    starts = [
        _start(starred, letters[0], column[0], hop) if letters else -1
        for letters, column in zip(words, columns, strict=True)
    ]
    loud = loud_steps(audio)
    heard = 0  # where the last letter so far ends
    for index, letters in enumerate(words):
        if letters and not letters_fill_sound and (index == 0 or starts[index] - heard > TOUCHING):
            starts[index] = onset(starts[index], heard, letters[0].stop * hop, loud)
        heard = letters[-1].stop * hop if letters else heard
    timings: list[WordTiming | None] = []
    for index, (token, letters) in enumerate(zip(tokens, words, strict=True)):
        if not letters:
            timings.append(None)
            continue
        following = next((start for start in starts[index + 1 :] if start >= 0), len(audio))
        stop = letters[-1].stop
        if index < len(tokens) - 1 and following - stop * hop <= TOUCHING:
            end = following
        elif letters_fill_sound:
            end = min(_end_by_letters(starred, stop, alphabet.blank, hop), following)
        else:
            end = offset(stop * hop, following, loud)
        end = min(max(end, starts[index] + 1), len(audio))
        is_star = alphabet.star in columns[index]
        timings.append(
            WordTiming(
                start=starts[index],
                end=end,
                score=word_score(letters),
                timing="star" if is_star else "aligned",
                char_times=_char_times(
                    token,
                    _spread(
                        [starts[index], *(span.start * hop for span in letters[1:])],
                        [alphabet.width(column) for column in columns[index]],
                        end,
                    ),
                    end,
                ),
            )
        )
    if not letters_fill_sound:  # a model that hears each letter for a frame or two does not hear all of what is said
        uncovered = united(uncovered, loud_between(audio, [timing for timing in timings if timing is not None]))
    return Alignment(timings=timings, uncovered=uncovered, fit=_fit(spans, targets, owners, alphabet))


def _targets(tokens: Sequence[Token], alphabet: Alphabet) -> tuple[np.ndarray, np.ndarray]:
    """int64 columns of all letters with delimiters between spoken words, and int64 the token that each belongs to (-1: none)."""
    targets: list[int] = []
    owners: list[int] = []
    for index, token in enumerate(tokens):
        for word in token.spoken:
            if alphabet.delimiter is not None and targets:
                targets.append(alphabet.delimiter)
                owners.append(-1)
            columns = alphabet.columns(word)
            targets += columns
            owners += [index] * len(columns)
    return np.array(targets, np.int64), np.array(owners, np.int64)


def _check_script(tokens: Sequence[Token], targets: np.ndarray, owners: np.ndarray, alphabet: Alphabet) -> None:
    """Raises AlignError where the model lacks most of the letters: a star fits everything, so it would align with anything."""
    letters = targets[owners >= 0]
    unknown = int((letters == alphabet.star).sum())
    if 2 * unknown > len(letters) and any(character.isalpha() for token in tokens for character in token.text):
        raise AlignError(
            f"the model has no letters for {unknown} of the {len(letters)} characters of the transcript, which begins "
            f"{tokens[0].text[:20]!r}: another script than the model's. MMS_FA (torchaudio) aligns romanised text of any script"
        )


def _with_silence(emissions: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """The blank as "no letter": blank or delimiter. Models put delimiters before the first and after the last word as well,
    and without this a stray one at the end would drag the last word to it."""
    if alphabet.delimiter is not None:
        emissions[:, alphabet.blank] = np.logaddexp(emissions[:, alphabet.blank], emissions[:, alphabet.delimiter])
    return emissions


def _with_gap(emissions: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """One more column: what may stand between two words. Silence, or speech that the transcript lacks, at a price."""
    gap = np.maximum(emissions[:, alphabet.blank], emissions[:, alphabet.star] - UNCOVERED_PRICE)
    return np.concatenate([emissions, gap[:, None]], axis=1)


def _between_words(owners: np.ndarray) -> np.ndarray:
    """bool [L + 1]: whether the blank before each token (and after the last) lies between two words, or outside all of them."""
    before, after = np.concatenate([[-1], owners]), np.concatenate([owners, [-1]])
    return np.asarray((before != after) | (before < 0))


def _path(
    emissions: np.ndarray, targets: np.ndarray, owners: np.ndarray, alphabet: Alphabet, hop: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The best path, and the runs of frames between words in which letters are heard, in samples.

    Where two words have too little of it between them to be a word, it is closed to such speech, and the path is found anew.

    Raises:
        TooShort: there are fewer frames than the letters need.
    """
    between = _between_words(owners)
    gaps = np.where(between, emissions.shape[1] - 1, alphabet.blank)
    outside = np.zeros(2 * len(owners) + 1, bool)  # the states that are in no word
    outside[::2], outside[1::2] = between, owners < 0
    while True:
        path = viterbi(emissions, targets, alphabet.blank, gaps)
        heard = outside[path] & (path % 2 == 0) & (emissions[:, -1] > emissions[:, alphabet.blank])
        short = [
            slice(start, stop)
            for start, stop in runs(outside[path])
            if 0 < np.count_nonzero(heard[start:stop]) * hop < MIN_UNCOVERED
        ]
        if not short:
            return path, [(start * hop, stop * hop) for start, stop in runs(heard, MAX_BREAK // hop)]
        for stretch in short:
            emissions[stretch, -1] = emissions[stretch, alphabet.blank]


def _fit(spans: list[TokenSpan], targets: np.ndarray, owners: np.ndarray, alphabet: Alphabet) -> float | None:
    """`Alignment.fit`; None where no letter is heard as itself."""
    heard = [spans[index].log_score for index in np.flatnonzero((owners >= 0) & (targets != alphabet.star))]
    return float(np.exp(np.mean(heard))) if heard else None


def word_score(letters: Sequence[TokenSpan]) -> float:
    """How well a word's letters are heard, in [0, 1]: by letter, so that a long vowel does not outweigh the rest, and by frame,
    so that a letter squeezed into a frame of another sound does not either."""
    scores = np.array([span.log_score for span in letters])
    frames = np.array([span.stop - span.start for span in letters])
    parts = scores.mean() + np.average(scores, weights=frames) + FIRST_LETTER * scores[0]
    return float(np.exp(parts / (2 + FIRST_LETTER)))


def _start(emissions: np.ndarray, span: TokenSpan, column: int, hop: int) -> int:
    """The start of a letter in samples, within the frames on both sides of its first: what is not yet the letter comes before."""
    frame = span.start
    if frame == 0:
        return 0
    before, first = np.exp(emissions[frame - 1, column]), np.exp(emissions[frame, column])
    # The share of each of the two frames that the letter does not fill, if a frame's probabilities are shares of its time.
    return round((frame - 1 + (1 - float(before)) + (1 - float(first))) * hop) if first > 0.5 else frame * hop


def _end_by_letters(emissions: np.ndarray, stop: int, blank: int, hop: int) -> int:
    """Where a word before a pause ends, in samples: its last letter's frame and the next, less their shares of silence."""
    silence = [
        1 - float(np.exp(emissions[frame, blank])) if frame < len(emissions) else 0.0 for frame in (stop - 1, stop)
    ]
    return round((stop - 1 + sum(silence)) * hop)


def _spread(times: list[int], widths: list[int], end: int) -> list[int]:
    """The start of each character from those of the labels, whose characters share the time until the next one evenly."""
    if set(widths) == {1}:
        return times
    return [
        int(time)
        for start, stop, width in zip(times, [*times[1:], end], widths, strict=True)
        for time in np.linspace(start, stop, width, endpoint=False)
    ]


def _char_times(token: Token, times: list[int], end: int) -> tuple[int, ...]:
    """The start of each character of the token's text, from those of the letters spoken for it.

    Characters that are spoken as themselves have their letter's time, those between (a hyphen) the next one's; where the
    spoken letters are others ("1984") the characters share the word evenly.
    """
    spoken = "".join(token.spoken)
    result: list[int] = []
    position = 0
    for character in token.text:
        result.append(times[position] if position < len(times) else end)
        if spoken[position:].startswith(character.casefold().replace("\u2019", "'")):
            position += len(character.casefold())
    if position == len(spoken):
        return tuple(result)
    edges = np.linspace(times[0], end, len(token.text) + 1)[:-1]
    return tuple(int(edge) for edge in edges)
