"""How far the words of an alignment are to be believed, whatever aligner made it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from math import exp

import numpy as np

from pipeline.align.base import WordTiming
from pipeline.align.loudness import ENERGY_HOP, loud_steps
from pipeline.text.tokens import Token
from schemas.audio import SAMPLE_RATE

MIN_UNCOVERED = 1_600
"""100 ms: shorter sounds between words (breath, the end of a letter) are no uncovered speech."""
LONGEST_WORD, LONGEST_LETTER = 0.5, 0.12
"""Seconds: what a word and each of its letters may last. No right word of 66 sentences and clips lasted longer."""
QUIET = 0.6
"""A word of which a larger share is no louder than the pauses is doubtful; of 1,000 right words 99 % have 0.51 at most."""
USUAL_DOUBT = 0.05
"""The share of doubtful words in a right transcript, and so what a segment expects before its own are seen."""
EXPECTED_WORDS = 10
"""How many words' worth that expectation is beside the segment's own."""
HEARD, TOLD, OTHERS, LENGTH = 0.32, 0.22, 0.64, 0.48
"""Of a word with a second witness: what its letters' score, the witness, the other words of its segment and its number of letters
count in the logarithm of its score. Few letters are found in other sounds sooner than many. A logistic regression of right
words against exchanged ones gave their proportions, and the bound `min_word_score` their size."""
USUAL_LETTERS = 5
"""A word of so many letters is believed as if their number did not count."""
TEXT_FIT, TEXT_TOLD = 0.65, 0.13
"""The same of a whole text: what the fit of its letters and the mean of the witness's words count. Chosen so that `min_score`
refuses fewer right texts than by letters alone, and as many wrong ones."""
JUDGED = ("aligned", "doubtful")
"""Timings of words that were heard letter by letter."""


def loud_between(audio: np.ndarray, timings: Sequence[WordTiming]) -> list[tuple[int, int]]:
    """Where it is loud and no word is: [start, end) in samples. For aligners that do not say what they hear between words."""
    loud = loud_steps(audio)
    for timing in timings:
        loud[timing.start // ENERGY_HOP : -(-timing.end // ENERGY_HOP)] = False
    spans = [(start * ENERGY_HOP, stop * ENERGY_HOP) for start, stop in runs(loud)]
    return [(start, end) for start, end in spans if end - start >= MIN_UNCOVERED]


def runs(flags: np.ndarray, breaks: int = 0) -> list[tuple[int, int]]:
    """Where a bool [n] is true, [start, stop) each; over breaks of at most so many it goes on."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags, [0]]).astype(np.int8))).reshape(-1, 2).tolist()
    return united([(start, stop) for start, stop in edges], [], breaks)


def united(
    first: Sequence[tuple[int, int]], second: Sequence[tuple[int, int]], breaks: int = 0
) -> list[tuple[int, int]]:
    """Spans that are in either list, in order; those at most `breaks` apart are one."""
    result: list[tuple[int, int]] = []
    for start, end in sorted([*first, *second]):
        if result and start - result[-1][1] <= breaks:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def judge(
    timings: Sequence[WordTiming], tokens: Sequence[Token], audio: np.ndarray, min_word_score: float
) -> list[WordTiming]:
    """The timings, with scores that say how far each is to be believed; `doubtful` is what falls below `min_word_score`.

    A word too long for its letters or mostly quiet has less than `min_word_score`, however well its letters fit. Only
    `aligned` words are judged.
    """
    loud = loud_steps(audio)
    judged = [index for index, timing in enumerate(timings) if timing.timing == "aligned"]
    fits = [min(_fit(timings[index], tokens[index]), _audible(timings[index], loud)) for index in judged]
    scores = np.array([timings[index].score for index in judged])
    capped = np.array([min_word_score * fit if fit < 1 else 1.0 for fit in fits])
    result = list(timings)
    for index, score, fit in zip(judged, np.minimum(scores, capped).tolist(), fits, strict=True):
        doubtful = fit < 1 or score < min_word_score
        told = timings[index].told if fit == 1 else None  # it did not hear how long the word is
        result[index] = replace(timings[index], score=score, timing="doubtful" if doubtful else "aligned", told=told)
    return result


def witnessed(timing: WordTiming, token: Token, min_word_score: float, trust: float = 1.0) -> WordTiming:
    """The timing with the score that its letters, `trust` in its segment and its second witness, where it has one, make."""
    if timing.timing not in JUDGED:
        return timing
    if timing.told is None:
        score = timing.score * trust
        return replace(timing, score=score, timing="doubtful" if score < min_word_score else timing.timing)
    letters = max(1, sum(len(word) for word in token.spoken))
    score = timing.score**HEARD * exp(TOLD * timing.told) * trust**OTHERS * (letters / USUAL_LETTERS) ** LENGTH
    score = min(1.0, score)
    return replace(timing, score=score, timing="doubtful" if score < min_word_score else "aligned")


def text_score(fit: float, told: Sequence[float | None]) -> float:
    """How well a whole text is heard, in [0, 1]: its letters' `fit`, and what a second witness says of its words.

    Words that it finds probable add nothing beyond what the exponent gives them all, for letters that are not there are not
    there; so no text comes to `min_score` whose letters are below `least_fit` of it. Without a witness it is the fit.
    """
    said = [min(value, 0.0) for value in told if value is not None]
    return fit**TEXT_FIT * exp(TEXT_TOLD * sum(said) / len(said)) if said else fit


def least_fit(min_score: float) -> float:
    """The fit of letters below which nothing that a second witness could say makes a `text_score` of `min_score`."""
    return float(min_score ** (1 / TEXT_FIT))


def judge_beside_others(
    timings: Sequence[WordTiming], tokens: Sequence[Token], min_word_score: float
) -> list[WordTiming]:
    """What `judge` gave, each word believed less where more words of its segment are doubtful than usual.

    Scores are multiplied by the odds of a word being right, beside the usual odds; the share of doubtful words is estimated from
    the segment's own, with `EXPECTED_WORDS` of `USUAL_DOUBT` as its prior. Once, and by the words below the bound alone: in
    turns, or by every score's own odds, a voice that is heard less well throughout would lose all of its words. By letters
    alone: what a second witness says goes to each word's own score afterwards, for it knows a segment's other words.
    """
    judged = [timing.timing == "doubtful" for timing in timings if timing.timing in JUDGED]
    share = (EXPECTED_WORDS * USUAL_DOUBT + sum(judged)) / (EXPECTED_WORDS + len(judged))
    trust = min(1.0, (1 - share) / share * USUAL_DOUBT / (1 - USUAL_DOUBT))
    return [witnessed(*pair, min_word_score, trust) for pair in zip(timings, tokens, strict=True)]


def uncovered_share(
    timings: Sequence[WordTiming], tokens: Sequence[Token], uncovered: Sequence[tuple[int, int]]
) -> float:
    """The share of a segment's speech that no word covers. What a word lasts beyond its letters is not covered by it."""
    without = sum(end - start for start, end in uncovered)
    within = sum(timing.end - timing.start for timing in timings)
    beyond = sum(surplus(timing, token) for timing, token in zip(timings, tokens, strict=True))
    return (without + beyond) / max(1, without + within)


def by_word(uncovered: Sequence[tuple[int, int]], timings: Sequence[WordTiming]) -> list[list[int]]:
    """`Word.uncovered` of each word: start, end, start, end of the spans before it; the last word has those after it too."""
    starts = [timing.start for timing in timings]
    result: list[list[int]] = [[] for _ in timings]
    for start, end in uncovered:
        result[min(bisect_left(starts, (start + end) // 2), len(timings) - 1)] += [start, end]
    return result


def surplus(timing: WordTiming, token: Token) -> int:
    """The samples by which a word is longer than its letters can be."""
    return max(0, timing.end - timing.start - _longest(token))


def _longest(token: Token) -> int:
    letters = sum(len(word) for word in token.spoken)
    return round((LONGEST_WORD + LONGEST_LETTER * letters) * SAMPLE_RATE)


def _fit(timing: WordTiming, token: Token) -> float:
    """The share of a word that its letters can last: 1 where it is no longer."""
    return min(1.0, _longest(token) / (timing.end - timing.start))


def _audible(timing: WordTiming, loud: np.ndarray) -> float:
    """The share of a word that is louder than the pauses, beside the least that is believed: 1 where it has that much."""
    own = loud[timing.start // ENERGY_HOP : -(-timing.end // ENERGY_HOP)]
    return min(1.0, float(own.mean()) / (1 - QUIET)) if len(own) else 1.0
