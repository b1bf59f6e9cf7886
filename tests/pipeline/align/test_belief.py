"""Words are believed only as far as they were heard, and speech that no word covers is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.align.base import AlignError, Alignment, WordTiming
from pipeline.align.belief import (
    by_word,
    judge,
    judge_beside_others,
    least_fit,
    loud_between,
    runs,
    text_score,
    uncovered_share,
)
from pipeline.align.ctc import CtcAligner, align_emissions, word_score
from pipeline.align.ctc_model import Alphabet
from pipeline.align.viterbi import TokenSpan
from pipeline.text.tokens import tokenise
from schemas.spec import CtcSpec

ROOT = Path(__file__).parents[3]
DEMO_WHISPER = ROOT / "models" / "whisper-tiny.en"
LABELS = ("<pad>", "|", *"abcdefghijklmnopqrstuvwxyz")
ALPHABET = Alphabet(labels=LABELS, blank=0, delimiter=1)
HOP = 320
CLIP = "sense_and_sensibility_0890.flac"
TEXT = "unless to be rather cold hearted and rather selfish is to be ill disposed"


def emissions(frames: str) -> np.ndarray:
    """One frame per character: a letter, or "_" for silence, with 0.97 of the probability."""
    rows = np.full((len(frames), len(LABELS)), 0.03 / len(LABELS))
    for row, character in zip(rows, frames, strict=True):
        row[0 if character == "_" else LABELS.index(character)] += 0.97
    return np.log(rows).astype(np.float32)


def align(frames: str, text: str) -> Alignment:
    matrix = emissions(frames)
    return align_emissions(matrix, ALPHABET, HOP, np.zeros(len(frames) * HOP, np.float32), tokenise(text), True)


def test_speech_that_the_transcript_lacks_stays_out_of_its_words() -> None:
    frames = "__ccaatt__" + "hheellllooyyoouutthheerree" + "__eegggg__"
    found = align(frames, "cat egg")
    assert [(round(t.start / HOP), round(t.end / HOP)) for t in found.timings if t] == [(2, 8), (38, 44)]
    ((start, end),) = found.uncovered or ()
    assert (start // HOP, end // HOP) == (10, 36)
    assert align(frames, "cat hello you there egg").uncovered == []


def test_less_than_a_word_between_two_words_belongs_to_them() -> None:
    found = align("__ccaatt__hhhh__eegggg__", "cat egg")
    assert found.uncovered == []


def word(start: float, end: float, score: float = 1.0) -> WordTiming:
    return WordTiming(start=round(start * 16_000), end=round(end * 16_000), score=score, timing="aligned")


@pytest.mark.parametrize(
    "timing,wanted",
    [
        (word(1.0, 1.5), "aligned"),
        (word(1.0, 1.5, score=0.05), "doubtful"),
        (word(1.0, 1.95), "doubtful"),
        (word(1.4, 1.9), "aligned"),
        (word(1.7, 2.2), "doubtful"),
    ],
    ids=["heard", "low score", "too long for three letters", "a quiet end", "mostly quiet"],
)
def test_a_word_is_doubtful_by_its_score_its_length_or_its_quiet(timing: WordTiming, wanted: str) -> None:
    audio = np.random.default_rng(0).normal(size=48_000).astype(np.float32) * 1e-4
    audio[16_000:28_800] *= 1e3  # loud from 1.0 to 1.8 s
    assert [item.timing for item in judge([timing], tokenise("cat"), audio, 0.1)] == [wanted]


@pytest.mark.parametrize("timing", [word(1.0, 1.95), word(1.7, 2.2)], ids=["too long", "mostly quiet"])
@pytest.mark.parametrize("bound", [0.1, 0.0])
def test_a_doubtful_word_has_a_score_that_says_so(timing: WordTiming, bound: float) -> None:
    audio = np.random.default_rng(0).normal(size=48_000).astype(np.float32) * 1e-4
    audio[16_000:28_800] *= 1e3
    (judged,) = judge([timing], tokenise("cat"), audio, bound)
    assert judged.timing == "doubtful"
    assert judged.score < bound or judged.score == bound == 0


def judged_scores(scores: list[float]) -> list[WordTiming]:
    timings = [word(0.3 * index, 0.3 * index + 0.3, score) for index, score in enumerate(scores)]
    loud = np.ones(len(scores) * 4_800, np.float32)
    tokens = tokenise(" ".join(["cat"] * len(scores)))
    return judge_beside_others(judge(timings, tokens, loud, 0.1), tokens, 0.1)


def test_beside_doubtful_words_a_word_is_believed_less() -> None:
    heard = judged_scores([0.9] * 7 + [0.25])
    assert [timing.timing for timing in heard] == ["aligned"] * 8
    assert [timing.score for timing in heard] == [0.9] * 7 + [0.25]
    mixed = judged_scores([0.9] * 4 + [0.01] * 3 + [0.25])
    assert [timing.timing for timing in mixed] == ["aligned"] * 4 + ["doubtful"] * 4


def test_a_voice_that_is_heard_less_well_throughout_keeps_its_words() -> None:
    """As eSpeak NG's under the small CTC: a tenth of its words doubtful, the rest far from certain."""
    scores = [0.05] * 4 + np.linspace(0.15, 0.7, 30).tolist()
    assert sum(timing.timing == "aligned" for timing in judged_scores(scores)) >= 24


def test_the_label_is_the_score_against_the_bound() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        for timing in judged_scores((rng.uniform(size=rng.integers(1, 20)) ** 3).tolist()):
            assert 0 <= timing.score <= 1
            assert (timing.timing == "doubtful") == (timing.score < 0.1)


def test_a_wrong_beginning_costs_more_than_a_wrong_end() -> None:
    whole, last, first = (
        timing.score for frames in ("_ccaatt_", "_ccaaxx_", "_xxaatt_") if (timing := align(frames, "cat").timings[0])
    )
    assert whole == pytest.approx(1.0)
    assert first < last < whole


def test_a_wrong_letter_costs_more_the_longer_it_lasts() -> None:
    def score(*frames: int) -> float:
        logs = [0.0, -5.0, 0.0]
        spans = [TokenSpan(start=0, stop=num, log_score=log) for num, log in zip(frames, logs, strict=True)]
        return word_score(spans)

    assert score(2, 6, 2) < score(2, 2, 2) < score(6, 2, 6) < 1


def test_loud_stretches_without_a_word_are_counted_and_told_to_the_words_beside_them() -> None:
    audio = np.random.default_rng(0).normal(size=48_000).astype(np.float32) * 1e-4
    audio[8_000:40_000] *= 1e3  # loud from 0.5 to 2.5 s
    timings = [word(0.5, 1.0), word(2.0, 2.25)]
    spans = loud_between(audio, timings)
    assert spans == [(16_000, 32_000), (36_000, 40_000)]
    assert by_word(spans, timings) == [[], [16_000, 32_000, 36_000, 40_000]]
    assert uncovered_share(timings, tokenise("cat egg"), spans) == pytest.approx(1.25 / 2)


def test_a_witness_lifts_a_text_by_a_bounded_share_and_lowers_it_without_bound() -> None:
    assert text_score(0.15, []) == text_score(0.15, [None]) == 0.15, "letters alone are as they were"
    believed = text_score(0.15, [0.1, None, -0.1])
    assert believed > 0.2
    assert text_score(0.15, [0.0, -0.2]) > text_score(0.15, [-3.0, -3.0]) > text_score(0.15, [-9.0, -3.0])
    assert text_score(0.5, [-9.0]) < 0.2, "well heard letters that it finds absurd"
    assert text_score(least_fit(0.2), [5.0]) == pytest.approx(0.2), "what it finds probable lifts no letters from below"
    assert text_score(0.9 * least_fit(0.2), [5.0, 5.0]) < 0.2


def test_runs_go_on_over_short_breaks() -> None:
    flags = np.array([0, 1, 1, 0, 1, 0, 0, 1], bool)
    assert runs(flags) == [(1, 3), (4, 5), (7, 8)]
    assert runs(flags, 1) == [(1, 5), (7, 8)]


@pytest.fixture(scope="module")
def aligner() -> CtcAligner:
    if not (DEMO_WHISPER / "model.bin").is_file():
        pytest.skip("needs `make models`")
    model = str(ROOT / "assets" / "whisper-tiny-letters")
    opened = CtcAligner(CtcSpec(format="whisper", model=model, encoder=str(DEMO_WHISPER)))
    opened.open()
    return opened


def share(aligner: CtcAligner, text: str) -> float:
    audio, _ = soundfile.read(ROOT / "data" / "demo" / CLIP, dtype="float32")
    found = aligner.align(audio, tokenise(text), "en")
    timings = [timing for timing in found.timings if timing is not None]
    return uncovered_share(timings, tokenise(text), found.uncovered or ())


def test_a_text_that_covers_part_of_the_speech_leaves_the_rest_uncovered(aligner: CtcAligner) -> None:
    words = TEXT.split()
    assert share(aligner, TEXT) < 0.05
    for part in (words[:3], words[:7], words[7:], words[:5] + words[9:]):
        assert share(aligner, " ".join(part)) > 0.2, part


def test_the_text_of_another_recording_is_refused(aligner: CtcAligner) -> None:
    with pytest.raises(AlignError, match="do not belong together"):
        share(aligner, "it was the best of times it was the worst of times it was the age of wisdom")
