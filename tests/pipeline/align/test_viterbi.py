"""CTC Viterbi: torchaudio's path token for token, the best path there is, and spans that say where each token lies."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.align.viterbi import TooShort, frames_needed, token_spans, viterbi, viterbi_batch, with_star


def emissions(seed, frames, tokens, spread=2.0):
    logits = np.random.default_rng(seed).standard_normal((frames, tokens)) * spread
    return torch.log_softmax(torch.from_numpy(logits).float(), dim=-1).numpy()


def labels_of(path, targets, blank=0):
    return np.where(path % 2 == 1, targets[np.minimum(path // 2, len(targets) - 1)], blank)


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 10_000),
    tokens=st.integers(2, 6),
    length=st.integers(1, 14),
    extra=st.integers(0, 40),
)
def test_equal_to_torchaudio_token_for_token(data, seed, tokens, length, extra):
    """Few tokens, so repeats abound; from no frame to spare up to mostly blanks; any column may be the blank."""
    from torchaudio.functional import forced_align

    blank = data.draw(st.integers(0, tokens - 1))
    others = [token for token in range(tokens) if token != blank]
    targets = np.array(data.draw(st.lists(st.sampled_from(others), min_size=length, max_size=length)))
    log_probs = emissions(seed, frames_needed(targets) + extra, tokens)
    expected, scores = forced_align(torch.from_numpy(log_probs)[None], torch.from_numpy(targets)[None], blank=blank)
    path = viterbi(log_probs, targets, blank)
    np.testing.assert_array_equal(labels_of(path, targets, blank), expected[0].numpy())
    np.testing.assert_allclose(log_probs[np.arange(len(path)), expected[0]], scores[0].numpy(), atol=1e-6)


def paths_by_brute_force(frames, targets):
    """All legal state sequences of a few frames."""
    states = 2 * len(targets) + 1
    for path in itertools.product(range(states), repeat=frames):
        if path[0] > 1 or path[-1] < states - 2:
            continue
        if all(_legal(before, after, targets) for before, after in itertools.pairwise(path)):
            yield path


def _legal(before, after, targets):
    step = after - before
    return step in (0, 1) or (step == 2 and after % 2 == 1 and targets[after // 2] != targets[after // 2 - 1])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), length=st.integers(1, 3), frames=st.integers(3, 6))
def test_no_legal_path_scores_higher(data, length, frames):
    """Against every path, with emissions full of exact ties (quarters of small integers, so that sums are exact)."""
    targets = np.array(data.draw(st.lists(st.integers(1, 2), min_size=length, max_size=length)))
    if frames_needed(targets) > frames:
        return
    quarters = data.draw(st.lists(st.integers(-8, 0), min_size=frames * 3, max_size=frames * 3))
    log_probs = (np.array(quarters).reshape(frames, 3) / 4).astype(np.float32)

    def score(path):
        return log_probs[np.arange(frames), labels_of(np.array(path), targets)].sum()

    found = viterbi(log_probs, targets)
    assert tuple(found) in set(paths_by_brute_force(frames, targets))
    assert score(found) == max(score(path) for path in paths_by_brute_force(frames, targets))


def test_a_batch_is_its_items_one_by_one():
    items = [(emissions(seed, 20 + 13 * seed, 5), np.array([1, 1, 2, 3, 4, 4][: 1 + seed])) for seed in range(6)]
    for path, (log_probs, targets) in zip(viterbi_batch(*map(list, zip(*items, strict=True))), items, strict=True):
        np.testing.assert_array_equal(path, viterbi(log_probs, targets))


def test_no_tokens_is_all_blank():
    np.testing.assert_array_equal(viterbi(emissions(0, 5, 3), np.zeros(0, int)), np.zeros(5))


def test_too_few_frames_and_bad_targets_are_refused():
    with pytest.raises(TooShort, match="3 tokens need 4 frames and there are 3"):
        viterbi(emissions(0, 3, 3), np.array([1, 1, 2]))
    with pytest.raises(TooShort):
        viterbi(emissions(0, 0, 3), np.array([1]))
    for targets in ([0], [3], [-1]):
        with pytest.raises(ValueError, match="not the blank"):
            viterbi(emissions(0, 5, 3), np.array(targets))
    with pytest.raises(ValueError, match="blank 7"):
        viterbi(emissions(0, 5, 3), np.array([1]), blank=7)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 1_000), targets=st.lists(st.integers(1, 3), min_size=1, max_size=10), extra=st.integers(0, 20)
)
def test_spans_are_ordered_disjoint_and_scored_by_their_own_frames(seed, targets, extra):
    sequence = np.array(targets)
    log_probs = emissions(seed, frames_needed(sequence) + extra, 4)
    spans = token_spans(viterbi(log_probs, sequence), log_probs, sequence)
    assert len(spans) == len(targets)
    end = 0
    for span, token in zip(spans, targets, strict=True):
        assert end <= span.start < span.stop <= len(log_probs)
        assert span.log_score == pytest.approx(log_probs[span.start : span.stop, token].mean(), abs=1e-5)
        end = span.stop


def test_oracle_emissions_give_back_their_own_frames():
    """Emissions that say exactly which token is where: the arithmetic adds no error of its own."""
    truth = np.array([0, 0, 1, 1, 0, 2, 2, 2, 0, 2, 3, 0, 0])
    log_probs = np.log(np.full((len(truth), 4), 0.01, np.float32))
    log_probs[np.arange(len(truth)), truth] = np.log(0.97)
    targets = np.array([1, 2, 2, 3])
    spans = token_spans(viterbi(log_probs, targets), log_probs, targets)
    assert [(span.start, span.stop) for span in spans] == [(2, 4), (5, 8), (9, 10), (10, 11)]


def test_the_star_takes_the_place_of_an_unknown_letter_and_not_of_silence():
    """Letters 1 2 3, spoken "1 3 2" with pauses; the text knows "1 ? 2": the star lands on the frame where 3 is heard."""
    truth = np.array([0, 1, 0, 0, 3, 0, 0, 2, 0])
    log_probs = np.log(np.full((len(truth), 4), 0.01, np.float32))
    log_probs[np.arange(len(truth)), truth] = np.log(0.97)
    starred = with_star(log_probs, np.array([1, 2, 3]))
    spans = token_spans(viterbi(starred, np.array([1, 4, 2])), starred, np.array([1, 4, 2]))
    assert [(span.start, span.stop) for span in spans] == [(1, 2), (4, 5), (7, 8)]
