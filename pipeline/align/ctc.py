"""Words and characters in time, from the emissions of a letter CTC model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.align.base import AlignError, WordTiming
from pipeline.align.ctc_model import Alphabet, CtcModel
from pipeline.align.viterbi import TokenSpan, TooShort, token_spans, viterbi, with_star
from pipeline.text.tokens import Token
from schemas.cards import Card
from schemas.spec import CtcSpec

ENERGY_HOP = 160
"""10 ms: the step in which the sound after a word's last letter is followed."""
MAX_TAIL = 3_200
"""200 ms: how far a word may sound on after its last letter was heard. Models that put a letter on one frame need it."""
TOUCHING = 640
"""40 ms: words closer than this leave no pause; the first ends where the second begins."""
MAX_LEAD = 480
"""30 ms: how far the start of a word after a pause is moved to where sound begins: letters are heard a little after that."""
LOUD = 0.35
"""A frame is sound when its level lies this share of the way from the segment's floor to its peak, in decibels."""
MIN_RANGE = 15.0
"""Decibels between floor and peak under which a segment has no silence to tell sound from."""


class CtcAligner:
    """Viterbi over the letters of the spoken words, with the model's word delimiter between them where it has one.

    Characters without a letter in the model (digits that no rule speaks out, other scripts) are the star, which matches any
    one letter; their words are flagged `star`. Word starts are placed within a frame by the posteriors on both sides.
    """

    def __init__(self, spec: CtcSpec):
        self._spec = spec
        self._model = CtcModel(spec)

    def card(self) -> Card:
        """Hashes of the model's files and the version of the rules above."""
        facts = {"files": self._model.files(), "rules": "ctc-viterbi-star-3"}
        return Card(kind="aligner", name=f"ctc-{Path(self._spec.model.partition('@')[0]).name.lower()}", facts=facts)

    def open(self) -> None:
        """Load the model."""
        self._model.open()

    def close(self) -> None:
        """Release the model."""
        self._model.close()

    def align(self, audio: np.ndarray, tokens: Sequence[Token], language: str) -> Sequence[WordTiming | None]:
        """A timing per token; None for a token of which nothing is spoken.

        Raises:
            AlignError: too short for its letters, or they are not what is heard (the message says the score).
        """
        emissions = self._model.log_probs(audio)
        return align_emissions(
            emissions, self._model.alphabet, self._model.grid.hop, audio, tokens, self._spec.min_score
        )


def align_emissions(
    emissions: np.ndarray,
    alphabet: Alphabet,
    hop: int,
    audio: np.ndarray,
    tokens: Sequence[Token],
    min_score: float,
) -> list[WordTiming | None]:
    """`CtcAligner.align` from float32 [T, labels] log probabilities on; `audio` only tells where sound ends.

    Raises:
        AlignError: as `CtcAligner.align`.
    """
    targets, owners = _targets(tokens, alphabet)
    if not (owners >= 0).any():
        raise AlignError("the transcript has no characters to align")
    starred = _with_silence(with_star(emissions, alphabet.letters), alphabet)
    try:
        path = viterbi(starred, targets, alphabet.blank)
    except TooShort as error:
        raise AlignError(f"the segment is too short for its transcript: {str(error).partition(': ')[2]}") from error
    # Beside the best label of each frame, so that a score means the same for a sharp model and for an unsure one.
    spans = token_spans(path, starred - starred.max(axis=1, keepdims=True), targets)
    _check_score(spans, targets, owners, alphabet, min_score)
    words = [[spans[index] for index in np.flatnonzero(owners == word)] for word in range(len(tokens))]
    columns = [[int(targets[index]) for index in np.flatnonzero(owners == word)] for word in range(len(tokens))]
    starts = [
        _start(starred, letters[0], column[0], hop) if letters else -1
        for letters, column in zip(words, columns, strict=True)
    ]
    loud = _loud(audio)
    heard = 0  # where the last letter so far ends
    for index, letters in enumerate(words):
        if letters:
            if index == 0 or starts[index] - heard > TOUCHING:
                starts[index] = _onset(starts[index], heard, letters[0].stop * hop, loud)
            heard = letters[-1].stop * hop
    timings: list[WordTiming | None] = []
    for index, (token, letters) in enumerate(zip(tokens, words, strict=True)):
        if not letters:
            timings.append(None)
            continue
        following = next((start for start in starts[index + 1 :] if start >= 0), len(audio))
        end = _end(letters[-1].stop * hop, following, index == len(tokens) - 1, loud)
        end = min(max(end, starts[index] + 1), len(audio))
        is_star = alphabet.star in columns[index]
        timings.append(
            WordTiming(
                start=starts[index],
                end=end,
                score=float(np.exp(np.mean([span.log_score for span in letters]))),
                timing="star" if is_star else "aligned",
                char_times=_char_times(token, [starts[index], *(span.start * hop for span in letters[1:])], end),
            )
        )
    return timings


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


def _with_silence(emissions: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """The blank as "no letter": blank or delimiter. Models put delimiters before the first and after the last word as well,
    and without this a stray one at the end would drag the last word to it."""
    if alphabet.delimiter is not None:
        emissions[:, alphabet.blank] = np.logaddexp(emissions[:, alphabet.blank], emissions[:, alphabet.delimiter])
    return emissions


def _check_score(
    spans: list[TokenSpan], targets: np.ndarray, owners: np.ndarray, alphabet: Alphabet, min_score: float
) -> None:
    heard = [spans[index].log_score for index in np.flatnonzero((owners >= 0) & (targets != alphabet.star))]
    score = float(np.exp(np.mean(heard))) if heard else 0.0
    if heard and score < min_score:
        raise AlignError(
            f"the letters of the transcript are {score:.3f} times as probable as what is heard in their place, and "
            f"words.min_score is {min_score:g}: text and audio do not belong together"
        )


def _start(emissions: np.ndarray, span: TokenSpan, column: int, hop: int) -> int:
    """The start of a letter in samples, within the frames on both sides of its first: what is not yet the letter comes before."""
    frame = span.start
    if frame == 0:
        return 0
    before, first = np.exp(emissions[frame - 1, column]), np.exp(emissions[frame, column])
    # The share of each of the two frames that the letter does not fill, if a frame's probabilities are shares of its time.
    return round((frame - 1 + (1 - float(before)) + (1 - float(first))) * hop) if first > 0.5 else frame * hop


def _loud(audio: np.ndarray) -> np.ndarray:
    """bool per 10 ms: whether there is sound, by the segment's own range of levels; nothing where that range tells nothing."""
    num_steps = len(audio) // ENERGY_HOP
    if num_steps == 0:
        return np.zeros(0, bool)
    steps = audio[: num_steps * ENERGY_HOP].reshape(num_steps, ENERGY_HOP).astype(np.float64)
    level = 10 * np.log10((steps**2).mean(axis=1) + 1e-10)
    floor, peak = np.percentile(level, [5, 95])
    if peak - floor < MIN_RANGE:
        return np.zeros(0, bool)
    return np.asarray(level > floor + LOUD * (peak - floor))


def _onset(start: int, low: int, high: int, loud: np.ndarray) -> int:
    """Where the sound of a word after a pause begins: within (low, high), at most MAX_LEAD from its first letter's `start`."""
    step = own = start // ENERGY_HOP
    if step >= len(loud):
        return start
    if loud[step]:
        while step > 0 and loud[step - 1] and (step - 1) * ENERGY_HOP >= max(low, start - MAX_LEAD):
            step -= 1
    else:
        while step < len(loud) and not loud[step]:
            step += 1
        if step * ENERGY_HOP > min(high - 1, start + MAX_LEAD):
            return start
    return start if step == own else step * ENERGY_HOP


def _end(last: int, following: int, is_final: bool, loud: np.ndarray) -> int:
    """Where a word ends: with the sound after its last letter, at the next word at the latest. Blanks do not count as sound."""
    if not is_final and following - last <= TOUCHING:
        return following
    limit = min(following, last + MAX_TAIL)
    step = last // ENERGY_HOP
    while step < len(loud) and loud[step] and (step + 1) * ENERGY_HOP <= limit:
        step += 1
    return max(last, min(step * ENERGY_HOP, limit)) if step > last // ENERGY_HOP else min(last, following)


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
