"""The CTC aligner: times from oracle emissions, words that point into the text, and models from directories and bundles."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.align.base import AlignError
from pipeline.align.ctc import CtcAligner, align_emissions
from pipeline.align.ctc_model import Alphabet
from pipeline.text.tokens import tokenise
from schemas.spec import CtcSpec

HOP = 320
LABELS = ("<pad>", "<unk>", "|", "'", *"abcdefghijklmnopqrstuvwxyz")
ALPHABET = Alphabet(labels=LABELS, blank=0, delimiter=2)
DEMO = Path(__file__).parents[3] / "data" / "demo"


def oracle(spoken, durations, pauses, lead, tail):
    """Emissions and audio of words whose letters last `durations` samples each, apart by `pauses`: each frame's probabilities
    are the shares of its time, doubled letters have a blank frame between them, and pauses are silent.

    Returns emissions [T, labels], audio, and [start, end) of each word in samples.
    """
    line, loud, spans = [np.zeros(lead, int)], [np.zeros(lead)], []
    position = lead
    steps = iter(durations)
    for index, word in enumerate(spoken):
        start = position
        for place, letter in enumerate(word):
            length = next(steps)
            label = np.full(length, LABELS.index(letter) if letter in LABELS else LABELS.index("q"))
            if place and word[place - 1] == letter:
                label[:HOP] = 0
            line.append(label)
            position += length
        loud.append(np.ones(position - start))
        spans.append((start, position))
        if index < len(spoken) - 1:
            if pauses[index] == 0:
                line[-1][-HOP:] = 2
            line.append(np.full(pauses[index], 2))
            loud.append(np.zeros(pauses[index]))
            position += pauses[index]
    line.append(np.zeros(tail, int))
    loud.append(np.zeros(tail))
    labels = np.concatenate(line)
    frames = len(labels) // HOP
    shares = np.stack(
        [(labels[: frames * HOP].reshape(frames, HOP) == index).mean(axis=1) for index in range(len(LABELS))], axis=1
    )
    audio = np.concatenate(loud) * np.random.default_rng(0).standard_normal(len(labels)) * 0.1
    return np.log(shares * 0.99 + 0.01 / len(LABELS)).astype(np.float32), audio.astype(np.float32), spans


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), words=st.lists(st.sampled_from(["cat", "egg", "a", "hello", "it's", "zoo"]), min_size=1, max_size=8)
)
def test_oracle_emissions_give_boundaries_within_half_a_frame(data, words):
    """The aligner's own arithmetic: words at any sample, letters of 40 to 150 ms, pauses of none or 60 to 500 ms."""
    letters = sum(map(len, words))
    durations = data.draw(st.lists(st.integers(3 * HOP, 2_400), min_size=letters, max_size=letters))
    gaps = st.one_of(st.just(0), st.integers(3 * HOP, 8_000))
    pauses = data.draw(st.lists(gaps, min_size=len(words) - 1, max_size=len(words) - 1))
    emissions, audio, truth = oracle(
        words, durations, pauses, data.draw(st.integers(0, 5_000)), data.draw(st.integers(HOP, 9_000))
    )
    timings = align_emissions(emissions, ALPHABET, HOP, audio, tokenise(" ".join(words))).timings
    for timing, (start, end) in zip(timings, truth, strict=True):
        assert abs(timing.start - start) <= HOP / 2 + 20
        assert abs(timing.end - end) <= HOP + 160
        assert timing.timing == "aligned"


def test_a_word_after_a_pause_starts_with_its_sound_and_not_with_its_letter():
    """Letters that are heard 20 ms after their onset, and before it: the sound decides, up to 30 ms away."""
    emissions, audio, truth = oracle(["cat", "egg"], [1_920] * 6, [6_400], 3_200, 3_200)
    for shift in (1, -1):
        shifted = np.roll(emissions, shift, axis=0)
        timings = align_emissions(shifted, ALPHABET, HOP, audio, tokenise("cat egg")).timings
        assert [abs(timing.start - start) <= 160 for timing, (start, _) in zip(timings, truth, strict=True)] == [
            True,
            True,
        ]
    far = align_emissions(np.roll(emissions, 5, axis=0), ALPHABET, HOP, audio, tokenise("cat egg")).timings
    assert far[1].start - truth[1][0] >= 480


def test_starts_are_placed_within_the_frame():
    """Where probabilities are shares of the frame's time, a start is known to a fraction of the 20 ms of a frame."""
    letters = [int(length) for length in np.random.default_rng(1).integers(3 * HOP, 2_400, 80)]
    emissions, audio, truth = oracle(["cat", "hello", "zoo", "egg", "it's"] * 4, letters, [2_000] * 19, 1_000, 2_000)
    timings = align_emissions(emissions, ALPHABET, HOP, audio, tokenise("cat hello zoo egg it's " * 4)).timings
    errors = [abs(timing.start - start) for timing, (start, _) in zip(timings, truth, strict=True)]
    assert np.mean(errors) < HOP / 10


def test_trailing_silence_does_not_stretch_the_last_word():
    for tail in (HOP, 8_000, 160_000):
        emissions, audio, truth = oracle(["hello"], [1_600] * 5, [], 1_600, tail)
        (timing,) = align_emissions(emissions, ALPHABET, HOP, audio, tokenise("hello")).timings
        assert abs(timing.end - truth[0][1]) <= HOP


def test_a_delimiter_after_the_last_word_does_not_drag_the_word_to_it():
    emissions, audio, truth = oracle(["hello", "cat"], [1_600] * 8, [3_200], 3_200, 16_000)
    quiet = int(truth[1][1]) // HOP + 1
    for frame in (2, quiet + 20, len(emissions) - 1):
        emissions[frame, [0, 2]] = np.log([0.02, 0.95])
    timings = align_emissions(emissions, ALPHABET, HOP, audio, tokenise("hello cat")).timings
    for timing, (start, end) in zip(timings, truth, strict=True):
        assert abs(timing.start - start) <= HOP
        assert abs(timing.end - end) <= HOP


def test_a_peaky_model_still_gets_the_end_of_the_sound():
    """Letters on a single frame each, as plain CTC training gives them: the word lasts until it is quiet, 200 ms at most."""
    _, audio, truth = oracle(["cat"], [1_920] * 3, [], 1_600, 16_000)
    log_probs = np.full((len(audio) // HOP, len(LABELS)), np.log(0.001), np.float32)
    log_probs[:, 0] = np.log(0.9)
    for place, letter in enumerate("cat"):
        log_probs[(1_600 + 1_920 * place) // HOP + 1, [0, LABELS.index(letter)]] = np.log([0.001, 0.9])
    (timing,) = align_emissions(log_probs, ALPHABET, HOP, audio, tokenise("cat")).timings
    assert abs(timing.end - truth[0][1]) <= 320


def test_words_point_back_into_the_text_and_characters_have_times():
    text = "“Well-known” cats: £3, don’t!"
    spoken = [word for token in tokenise(text) for word in token.spoken]
    letters = sum(map(len, spoken))
    emissions, audio, _ = oracle(spoken, [1_600] * letters, [3_200] * (len(spoken) - 1), 800, 1_600)
    tokens = tokenise(text)
    timings = align_emissions(emissions, ALPHABET, HOP, audio, tokens).timings
    assert [text[token.char_start : token.char_end] for token in tokens] == [token.text for token in tokens]
    for token, timing in zip(tokens, timings, strict=True):
        assert len(timing.char_times) == len(token.text)
        assert timing.char_times[0] == timing.start
        assert list(timing.char_times) == sorted(timing.char_times)
        assert timing.char_times[-1] < timing.end
    well_known = timings[[token.text for token in tokens].index("Well-known")]
    assert well_known.char_times[5] - well_known.char_times[3] >= 3_200  # the pause that the hyphen stands in


def test_characters_that_the_model_lacks_are_stars_and_say_so():
    tokens = tokenise("cat 7 egg", language="xx")  # no rules speak digits in this language
    emissions, audio, truth = oracle(["cat", "q", "egg"], [1_600] * 7, [3_200] * 2, 1_600, 1_600)
    timings = align_emissions(emissions, ALPHABET, HOP, audio, tokens).timings
    assert [timing.timing for timing in timings] == ["aligned", "star", "aligned"]
    for timing, (start, _) in zip(timings, truth, strict=True):
        assert abs(timing.start - start) <= HOP


def test_accents_and_case_fall_back_to_the_models_letters():
    upper = Alphabet(labels=("-", "|", "E", "T"), blank=0, delimiter=1)
    assert upper.columns("tête") == [3, 2, 3, 2]
    assert upper.columns("x|-") == [4, 4, 4]  # the model's own signs are no letters
    assert ALPHABET.letters.tolist() == list(range(3, 30))


def test_another_text_is_rejected_with_its_score():
    emissions, audio, _ = oracle(["hello", "cat"], [1_600] * 8, [1_600], 1_600, 1_600)
    aligner = CtcAligner(CtcSpec(model="unused", min_score=0.1))
    aligner._model.alphabet = ALPHABET
    assert aligner.align_heard(emissions, audio, tokenise("hello cat")).fit == pytest.approx(1, abs=0.1)
    with pytest.raises(
        AlignError, match=r"are 0\.0\d+ times as probable as what is heard in their place, and words\.min_score is 0\.1"
    ):
        aligner.align_heard(emissions, audio, tokenise("dry wind"))
    with pytest.raises(AlignError, match=r"too short for its transcript: 30 tokens need \d+ frames and there are 10"):
        align_emissions(emissions[:10], ALPHABET, HOP, audio[:3_200], tokenise("abcdefghij" * 3))
