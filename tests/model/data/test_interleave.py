"""Interleaving: no word is lost, doubled or split between modalities, and the shares are the paper's."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.compose import Composer, Utterance, segments_of, utterance_of
from model.data.draws import generator
from model.data.interleave import PaperRule, SpiritLMRule, draw_spans
from model.data.shards import Sample
from model.data.text_tokenizer import TextTokenizer, load_tokenizer, train_bpe
from model.network.vocabulary import BOS, EOS, SPEECH_MARK, TEXT_MARK, Vocabulary
from tests.synthetic_shards import WORDS, speech_sample

NUM_UNITS = 5000
RULES = st.sampled_from(
    [PaperRule(), SpiritLMRule(), PaperRule(text_words=(1, 3), min_last_words=1, first_speech_words=(1, 2))]
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return load_tokenizer(train_bpe([" ".join(WORDS)] * 4, 320, tmp_path_factory.mktemp("bpe") / "tokenizer.json"))


@pytest.fixture(scope="module")
def composer(tokenizer: TextTokenizer) -> Composer:
    return Composer(tokenizer, Vocabulary(num_text=tokenizer.size, num_units=NUM_UNITS), token_starts=True)


def make_sample(seed: int, num_words: int, word_frames: tuple[int, int] = (2, 10)) -> Sample:
    """A passage whose words are all different, and whose units count up, so that each can be told from the others."""

    rng = np.random.default_rng(seed)
    meta, arrays = speech_sample(f"s{seed}", num_words, NUM_UNITS, rng, word_frames=word_frames)
    text = " ".join(f"w{i}x" for i in range(num_words))
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    loaded = {name: np.load(io.BytesIO(data), allow_pickle=False) for name, data in arrays.items()}
    units = np.arange(meta.num_frames, dtype=np.uint16)
    meta = meta.with_updates(text=text, words=spans)
    return Sample(meta=meta, units=units, words=loaded["words.npy"], patch=loaded["patch.npy"], chars=None)


@given(rule=RULES, num_words=st.integers(0, 200), seed=st.integers(0, 10_000))
@settings(deadline=None)
def test_spans_tile_the_words_and_alternate(rule: PaperRule | SpiritLMRule, num_words: int, seed: int) -> None:
    spans = draw_spans(rule, num_words, generator(seed))
    assert [word for span in spans for word in range(span.first, span.last)] == list(range(num_words))
    assert all(a.is_text != b.is_text for a, b in pairwise(spans))
    assert all(span.last - span.first >= rule.min_last_words for span in spans[1:] if span.last == num_words)


@given(num_words=st.integers(8, 300), seed=st.integers(0, 10_000))
@settings(deadline=None)
def test_span_lengths_follow_the_paper(num_words: int, seed: int) -> None:
    """Text 5 to 30 words, at most 0.6 of the utterance; speech half the text before it; the last span is what remains."""
    rule = PaperRule()
    spans = draw_spans(rule, num_words, generator(seed))
    lengths = [span.last - span.first for span in spans]
    for i, (span, length) in enumerate(zip(spans[:-1], lengths[:-1], strict=True)):
        if span.is_text:
            assert min(5, int(0.6 * num_words)) <= length <= min(30, int(0.6 * num_words))
        elif i == 0:
            assert 2 <= length <= 15
        else:
            assert length == max(2, lengths[i - 1] // 2)


@given(
    rule=RULES,
    num_words=st.integers(1, 60),
    seed=st.integers(0, 10_000),
    frames=st.sampled_from([(2, 10), (0, 2), (0, 0)]),
)
@settings(deadline=None, max_examples=150)
def test_no_word_is_lost_doubled_or_split(
    composer: Composer, rule: PaperRule | SpiritLMRule, num_words: int, seed: int, frames: tuple[int, int]
) -> None:
    """Every word is written whole, once, or all its units are spoken, once, in order; and nothing else is in the document
    but marks and the silences around spoken words."""
    sample = make_sample(seed, num_words, frames)
    if sample.meta.num_frames == 0:
        return
    utterance = utterance_of(sample)
    document = composer.interleaved(utterance, rule, generator(seed, "spans"))
    written, spoken = set[int](), np.zeros(len(utterance.units), dtype=int)
    offset = composer.vocabulary.unit_offset
    assert document.ids[0] == BOS
    assert document.ids[-1] == EOS
    marks = np.flatnonzero(np.isin(document.ids, (TEXT_MARK, SPEECH_MARK)))
    frame = 0
    for start, end in zip(marks, [*marks[1:], len(document.ids) - 1], strict=True):
        ids = document.ids[start + 1 : end]
        if document.ids[start] == TEXT_MARK:
            assert not document.is_unit[start + 1 : end].any()
            words = composer.tokenizer.decode((ids - composer.vocabulary.text_offset).tolist()).split()
            numbers = [int(word[1:-1]) for word in words]  # a split word would not parse
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            assert written.isdisjoint(numbers)
            written.update(numbers)
        else:
            assert document.is_unit[start + 1 : end].all()
            assert document.patch_start[start + 1]
            units = ids - offset
            frame = _find(utterance.units, units, frame)
            spoken[frame : frame + len(units)] += 1
            frame += len(units)
    assert spoken.max(initial=0) <= 1
    for word, (first, last) in enumerate(utterance.words.tolist()):
        covered = spoken[first:last]
        assert len(set(covered.tolist())) <= 1, f"word {word} is split"
        if last > first:
            assert (word in written) != bool(covered[0]), f"word {word} is lost or doubled"


def _find(units: np.ndarray, run: np.ndarray, at_least: int) -> int:
    for frame in range(at_least, len(units) - len(run) + 1):
        if (units[frame : frame + len(run)] == run).all():
            return frame
    raise AssertionError("a run of units is not in the utterance")


@given(num_words=st.integers(2, 60), seed=st.integers(0, 10_000), split=st.data())
@settings(deadline=None)
def test_a_silence_between_two_spans_is_halved(num_words: int, seed: int, split: st.DataObject) -> None:
    """Neighbouring ranges share one frame edge, in the middle of the silence between their words; ends take all of theirs."""
    utterance = utterance_of(make_sample(seed, num_words))
    middle = split.draw(st.integers(1, num_words - 1))
    left, right = utterance.frames_of(0, middle), utterance.frames_of(middle, num_words)
    assert left[0] == 0
    assert utterance.frames_of(0, num_words)[1] == len(utterance.units)
    assert left[1] == right[0]
    end, start = int(utterance.words[middle - 1, 1]), int(utterance.words[middle, 0])
    assert left[1] - end in {(start - end) // 2, (start - end + 1) // 2}


@given(num_words=st.integers(1, 40), seed=st.integers(0, 10_000))
@settings(deadline=None)
def test_segments_share_out_a_passage(num_words: int, seed: int) -> None:
    """Words, units and patch starts of the segments, put together, are those of the passage."""
    sample = make_sample(seed, num_words)
    whole, parts = utterance_of(sample), segments_of(sample)
    assert np.concatenate([part.units for part in parts]).tolist() == whole.units.tolist()
    assert np.concatenate([part.patch_kind for part in parts]).tolist() == whole.patch_kind.tolist()
    words = [part.text[start:end] for part in parts for start, end in part.char_spans]
    assert words == [whole.text[start:end] for start, end in whole.char_spans]
    for part in parts:
        assert all(0 <= a <= b <= len(part.units) for a, b in part.words.tolist())


def test_shares_are_the_papers(composer: Composer) -> None:
    """At 9.67 units and 1.3 pieces a word, the paper's interleaving gives 0.77 speech to 0.23 text (paper.md, 2): ours within
    0.02, marks not counted. The passages here have 9.67 units a word in the mean and are 30 to 60 words long (10 to 20 s)."""
    rng, units, words = np.random.default_rng(0), 0, 0
    for seed in range(400):
        num_words = int(rng.integers(30, 61))
        utterance = _even(num_words, 9.67)
        document = composer.interleaved(utterance, PaperRule(), generator(seed))
        units += int(document.is_unit.sum())
        written = composer.tokenizer.decode(
            (document.ids[(document.ids >= 5) & ~document.is_unit] - composer.vocabulary.text_offset).tolist()
        )
        words += len(written.split())
    share = units / (units + 1.3 * words)
    assert abs(share - 0.77) < 0.02, share


def _even(num_words: int, frames_per_word: float) -> Utterance:
    """Words of equal length, a silence of two frames after each."""
    edges = np.round(np.arange(num_words + 1) * frames_per_word).astype(np.int32)
    text = " ".join(["the"] * num_words)
    return Utterance(
        name="even",
        text=text,
        char_spans=[(4 * i, 4 * i + 3) for i in range(num_words)],
        words=np.stack([edges[:-1], edges[1:] - 2], axis=1),
        units=np.zeros(edges[-1], dtype=np.uint16),
        patch_start=np.zeros(edges[-1], dtype=bool),
        patch_kind=np.zeros(edges[-1], dtype=np.int8),
        char_frames=None,
    )


def test_asr_and_tts_documents(composer: Composer) -> None:
    utterance = utterance_of(make_sample(1, 6))
    asr = composer.transcription(utterance, "asr", "answer")
    tts = composer.transcription(utterance, "tts", "all")
    assert asr.ids[1] == SPEECH_MARK
    assert tts.ids[1] == TEXT_MARK
    assert sorted(asr.ids.tolist()) == sorted(tts.ids.tolist())
    text = int(np.flatnonzero(asr.ids == TEXT_MARK)[0])
    assert asr.target.tolist() == [i > text for i in range(len(asr.ids))]  # the loss is on the words and EOS alone
    assert tts.target.tolist() == [i > 0 for i in range(len(tts.ids))]


def test_token_starts_follow_character_times(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    """With one token per word, the starts are the words' first frames."""
    sample = make_sample(3, 5)
    frames = np.full(len(sample.meta.text), -1, dtype=np.int32)
    for (start, end), (first, last, _) in zip(sample.meta.words, sample.words.tolist(), strict=True):
        frames[start:end] = np.minimum(first + np.arange(end - start), last - 1)
    timed = Sample(meta=sample.meta, units=sample.units, words=sample.words, patch=sample.patch, chars=frames)
    composer = Composer(tokenizer, Vocabulary(num_text=tokenizer.size, num_units=NUM_UNITS), token_starts=True)
    document = composer.speech(utterance_of(timed))
    starts = np.flatnonzero(document.token_start) - 2  # BOS and the mark
    assert set(sample.words[:, 0].tolist()) <= set(starts.tolist())
    assert composer.speech(utterance_of(sample)).token_start.sum() == 0


@pytest.mark.parametrize("name", ["text_words", "first_speech_words"])
def test_a_range_must_be_a_range(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        PaperRule.model_validate({name: (9, 3)})


@pytest.mark.parametrize("seed", range(5))
def test_text_with_a_word_that_was_hardly_heard_is_spoken(composer: Composer, seed: int) -> None:
    """Below the bound no text is left; above it, or without a bound, the document is as it was."""
    scores = np.full(60, 0.9, np.float16)
    sample = replace(make_sample(seed, 60), scores=scores)
    plain = composer.interleaved(utterance_of(sample), PaperRule(), generator(seed))
    assert not plain.is_unit.all()
    kept = composer.interleaved(utterance_of(sample), PaperRule(), generator(seed), min_word_score=0.5)
    np.testing.assert_array_equal(kept.ids, plain.ids)
    scores[:] = 0.1
    spoken = composer.interleaved(utterance_of(sample), PaperRule(), generator(seed), min_word_score=0.5)
    np.testing.assert_array_equal(spoken.ids, composer.speech(utterance_of(sample)).ids)
    unscored = composer.interleaved(utterance_of(replace(sample, scores=None)), PaperRule(), generator(seed), 0.5)
    np.testing.assert_array_equal(unscored.ids, plain.ids)
