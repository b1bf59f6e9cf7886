"""Scores are what the model says of training's own documents: known for a known model, the same in any batch."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from model.data.compose import Composer, Utterance, segments_of, utterance_of
from model.data.document import bpe_vocabulary
from model.data.patching import assign_patches
from model.data.shards import ShardSet
from model.inference.patching import Patching, make_patching
from model.inference.session import Session
from model.network.lst import build_model
from model.network.vocabulary import BOS, SPEECH_MARK, TEXT_MARK
from model.scoring.accuracy import accuracy, bootstrap, difference, select
from model.scoring.documents import DIRECTIONS, make_choices, patch
from model.scoring.scorer import NORMALISATIONS, Scored, Scorer
from schemas.config import ConfigError
from schemas.models.unit_bpe import UnitBpe
from schemas.tasks import TaskItem, TaskSegment
from tests.model.network.cases import VOCABULARY, plain_config, policy, small_config
from tests.model.scoring.scoring_cases import SECONDS, Bigram, Letters, composer, random_items, scorer
from tests.synthetic_shards import write_speech_shards

FIRST_UNIT = VOCABULARY.unit_offset


def bigram(seed: int = 0) -> Bigram:
    return Bigram(torch.randn(VOCABULARY.size, VOCABULARY.size, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_known_model_gets_the_known_scores(direction: str) -> None:
    """Each normalisation against a sum over the bigrams, written out."""
    model = bigram()
    items = random_items(seed=1, count=9, endings=3)
    for item, scored in zip(items, scorer(model).score(items, [direction]), strict=True):
        written = {"T": lambda s: [5 + ord(c) - ord("a") for c in s.text if c != " "],
                   "S": lambda s: [FIRST_UNIT + u for u in s.units or []]}  # fmt: skip
        before, after = direction.split("->")
        mark = {"T": TEXT_MARK, "S": SPEECH_MARK}
        prompt = [BOS, mark[before], *written[before](item.prompt)] + ([mark[after]] if before != after else [])
        points = []
        for ending, score in zip(item.endings, scored.endings, strict=True):
            elements = written[after](ending)
            log_prob = model.log_prob([prompt[-1], *elements])
            whole = model.log_prob([*prompt, *elements])
            length = len(ending.text) if after == "T" else len(elements) * SECONDS
            expected = (log_prob, log_prob / len(elements), log_prob / length, whole / (len(prompt + elements) - 1))
            assert [score.value(n) for n in NORMALISATIONS] == pytest.approx(expected, rel=1e-6)
            points.append(log_prob)
        assert scored.point("sum") == float(points[item.answer] == max(points))


def test_a_model_without_numbers_is_refused() -> None:
    """NaN is neither above nor below: without a sentence it would count as wrong."""
    model = bigram()
    model.logits_VV.data[FIRST_UNIT:] = math.nan
    with pytest.raises(ConfigError, match="no numbers"):
        scorer(model).score(random_items(seed=1, count=3, endings=2), ["S->S"])


def test_the_known_accuracy_and_its_mirror() -> None:
    """Right endings of a's, wrong ones of b's, and the model prefers a's by a known margin; equal endings count a half."""
    logits = torch.zeros(VOCABULARY.size, VOCABULARY.size)
    logits[:, 5], logits[:, 6] = 2.0, 1.0  # a, b

    def item(number: int, right: str, wrong: str, answer: int) -> TaskItem:
        endings = [TaskSegment(text=right), TaskSegment(text=wrong)]
        return TaskItem(
            id=str(number), group="g", prompt=TaskSegment(text="c d"),
            endings=endings if answer == 0 else endings[::-1], answer=answer,
        )  # fmt: skip

    cases = [("a a", "b b"), ("b a", "c c"), ("b b", "a a"), ("a b", "b a"), ("c", "d")]
    items = [item(number, right, wrong, number % 2) for number, (right, wrong) in enumerate(cases)]
    scored = scorer(Bigram(logits)).score(items, ["T->T"])
    assert [s.point("sum") for s in scored] == [1, 1, 0, 0.5, 0.5]
    assert accuracy(scored, "sum").value == 0.6
    swapped = [replace(s, answer=1 - s.answer) for s in scored]
    for normalisation in NORMALISATIONS:
        assert accuracy(swapped, normalisation).value == 1 - accuracy(scored, normalisation).value


CONFIGS = {
    "lst": small_config(encoder__cross_window=2),
    "direct": small_config(text_path="direct", head="per_modality"),
    "published": small_config(conditioning="paper"),
    "plain": plain_config(),
}


@pytest.mark.parametrize(
    "config_name, patching",
    [("lst", "auto"), ("lst", "aligned"), ("direct", "auto"), ("published", "aligned"), ("plain", "auto")],
)
def test_a_batch_does_not_show(config_name: str, patching: str) -> None:
    """Scores in batches of any size, and again, are those of each item alone, to the last digit; before rounding within 1e-10."""
    wanted = make_patching(patching, policy("aligned"))
    model = build_model(CONFIGS[config_name], seed=3).double()
    items = random_items(seed=2, count=7)
    together = scorer(model, wanted).score(items, DIRECTIONS)
    assert together == scorer(model, wanted).score(items, DIRECTIONS)
    assert together == scorer(model, wanted, max_elements=100).score(items, DIRECTIONS)
    ready = scorer(model, wanted)
    assert together == [ready.score([item], [d])[0] for d in DIRECTIONS for item in items]
    for item in items[:3]:
        choices = [c for d in DIRECTIONS for c in make_choices(item, d, composer())]
        pieces = [whole_piece(choice, wanted) for choice in choices]
        for piece, packed in zip(pieces, ready.rows(pieces), strict=True):
            np.testing.assert_allclose(ready.rows([piece])[0].nll, packed.nll, rtol=0, atol=1e-10)


def whole_piece(choice, wanted):  # type: ignore[no-untyped-def]
    from model.data.packing import whole

    return whole(choice.document, *patch(choice, wanted))


@pytest.mark.parametrize("policy_name", ["static", "aligned", "merged", "dynamic", "learned"])
def test_documents_and_patches_are_those_of_training(policy_name: str, tmp_path: Path) -> None:
    """A passage of training, its first segment given as the prompt and the next as an ending, is the same document."""
    shards = ShardSet(str(write_speech_shards(tmp_path, [24], words=(6, 20), num_units=9)))
    policy_config = policy(policy_name)
    rng = np.random.default_rng(0)
    compared = 0
    for number in range(24):
        sample = shards.read(0, number)
        utterances = segments_of(sample)
        if len(utterances) != 2:
            continue
        compared += 1
        spoken = [
            TaskSegment(text="a", units=u.units.tolist(), words=[("a", int(s), int(e)) for s, e in u.words])
            for u in utterances
        ]
        item = TaskItem(
            id="x", group="g", prompt=spoken[0], endings=[spoken[1], TaskSegment(text="b", units=[1])], answer=0
        )
        choice = make_choices(item, "S->S", composer())[0]
        trained = composer().speech(utterance_of(sample))
        assert np.array_equal(choice.document.ids, trained.ids)
        assert np.array_equal(choice.document.is_unit, trained.is_unit)
        for ours, theirs in zip(
            patch(choice, Patching(prompt=policy_config, ending=policy_config)),  # type: ignore[arg-type]
            assign_patches(policy_config, trained, 1.0, rng),
            strict=True,
        ):
            assert np.array_equal(ours, theirs)
        assert choice.start == 2 + len(utterances[0].units)
    assert compared >= 2


def test_cross_modal_documents_are_those_of_transcription() -> None:
    item = TaskItem(
        id="x", group="g", prompt=TaskSegment(text="a b", units=[1, 2]),
        endings=[TaskSegment(text="c", units=[3]), TaskSegment(text="d", units=[4])], answer=0,
    )  # fmt: skip

    def ids(direction: str) -> list[int]:
        return make_choices(item, direction, composer())[0].document.ids.tolist()  # type: ignore[arg-type]

    spoken = Utterance(
        name="x", text="c", char_spans=[], words=np.zeros((0, 2), np.int32), units=np.asarray([1, 2], np.uint16),
        patch_start=np.ones(2, bool), patch_kind=np.zeros(2, np.int8), char_frames=None,
    )  # fmt: skip
    assert ids("S->T") == composer().transcription(spoken, "asr", "all").ids.tolist()
    written = replace(spoken, text="a b", units=np.asarray([3], np.uint16), patch_start=np.ones(1, bool))
    written = replace(written, patch_kind=np.zeros(1, np.int8))
    assert ids("T->S") == composer().transcription(written, "tts", "all").ids.tolist()
    assert ids("T->T") == composer().text("a b c", "x").ids.tolist()


def test_the_leak_free_way_does_not_know_the_words_of_an_ending() -> None:
    """Under auto, other words in an ending change no score; under aligned they do."""
    model = build_model(small_config(), seed=3).double()
    items = random_items(seed=5, count=6)
    blind = [
        item.with_updates(endings=[{**e.model_dump(), "words": [("a", 0, 1)]} for e in item.endings]) for item in items
    ]
    for wish, equal in (("auto", True), ("aligned", False)):
        ready = scorer(model, make_patching(wish, policy("aligned")))
        assert (ready.score(items, ["S->S", "T->S"]) == ready.score(blind, ["S->S", "T->S"])) is equal
    assert make_patching("auto", policy("curriculum")).ending == policy("curriculum").otherwise  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="unknown patching"):
        make_patching("static", policy("static"))
    with pytest.raises(ConfigError, match="for models trained with it"):
        make_patching("aligned", policy("static"))
    item = items[1].with_updates(prompt={"text": "a", "units": [1, 2]})
    ready = scorer(model, make_patching("auto", policy("aligned")))
    with pytest.raises(ConfigError, match="speech without words"):
        ready.score([item], ["S->S"])


@pytest.mark.parametrize("config_name", ["lst", "direct", "plain"])
@pytest.mark.parametrize("policy_name", ["static", "dynamic"])
def test_greedy_generation_takes_what_scoring_finds_likeliest(config_name: str, policy_name: str) -> None:
    """At every step, each unit as an ending of what stands so far: generation takes the one with the highest score."""
    model = build_model(CONFIGS[config_name], seed=4).double()
    chosen = policy(policy_name)
    ready = scorer(model, Patching(prompt=chosen, ending=chosen))  # type: ignore[arg-type]
    session = Session(model, chosen, num_rows=1)
    units = [3, 3, 7]
    logits = session.prefill([[BOS, SPEECH_MARK, *(FIRST_UNIT + unit for unit in units)]])[0]
    for _ in range(12):
        item = TaskItem(
            id="x", group="g", prompt=TaskSegment(text="a", units=units),
            endings=[TaskSegment(text="a", units=[unit]) for unit in range(VOCABULARY.num_units)], answer=0,
        )  # fmt: skip
        scores = [ending.log_prob for ending in ready.score([item], ["S->S"])[0].endings]
        taken = int(logits[FIRST_UNIT:].argmax())
        assert scores[taken] == max(scores)
        assert scores == pytest.approx(torch.log_softmax(logits, -1)[FIRST_UNIT:].tolist(), abs=1e-6)
        units.append(taken)
        logits = session.feed([FIRST_UNIT + taken])[0]


def test_unit_bpe_and_tokens_over_the_edge() -> None:
    """All endings share what stands before them, seconds are those of the units, and nothing of an ending is left unscored."""
    bpe = UnitBpe.train([np.tile(np.arange(9), 20)], num_units=9, size=20)
    coded = Composer(Letters(), bpe_vocabulary(VOCABULARY, bpe), token_starts=False, unit_bpe=bpe)
    item = TaskItem(
        id="x", group="g", prompt=TaskSegment(text="a", units=[0, 1, 2, 3, 4]),
        endings=[TaskSegment(text="b", units=[5, 6, 7]), TaskSegment(text="c", units=[0, 0])], answer=0,
    )  # fmt: skip
    first, second = make_choices(item, "S->S", coded)
    for choice, ending in ((first, item.endings[0]), (second, item.endings[1])):
        tokens = choice.document.ids[2 : choice.stop] - FIRST_UNIT
        assert bpe.decode(tokens).tolist() == [0, 1, 2, 3, 4, *(ending.units or [])]
        assert choice.length >= len(ending.units or [])
    assert first.start == second.start
    assert np.array_equal(first.document.ids[: first.start], second.document.ids[: second.start])
    model = build_model(plain_config(vocabulary=coded.vocabulary.model_dump()), seed=0)
    scored = Scorer(model, coded, make_patching("static:1", policy("static")), SECONDS).score([item], ["S->S"])[0]
    assert scored.endings[0].length == pytest.approx(first.length * SECONDS)
    assert math.isfinite(scored.endings[0].log_prob)


def test_continuations_of_text_as_lm_eval_asks_for_them() -> None:
    model = bigram(2)
    ready = scorer(model, max_elements=20)
    pairs = [("a b", " c"), ("", "a"), ("c d e", " f g a b"), ("a", " b" * 30)]
    mark = [BOS, TEXT_MARK]
    for (context, continuation), (log_prob, greedy) in zip(pairs, ready.score_text(pairs), strict=True):
        before = [*mark, *(5 + ord(c) - ord("a") for c in context if c != " ")]
        after = [5 + ord(c) - ord("a") for c in continuation if c != " "]
        assert log_prob == pytest.approx(model.log_prob([before[-1], *after]), abs=1e-5)
        table = model.logits_VV.detach()
        assert greedy == all(int(table[a].argmax()) == b for a, b in pairwise([before[-1], *after]))
    logits = torch.zeros(VOCABULARY.size, VOCABULARY.size)
    logits[:, 6] = 1.0
    assert [greedy for _, greedy in scorer(Bigram(logits)).score_text([("a", " b b"), ("a", " b a")])] == [True, False]


@pytest.mark.parametrize("config_name", ["lst", "direct", "plain"])
def test_products_in_bf16_score_as_bf16_rounds(config_name: str) -> None:
    """Near fp32 and not the same; weights stay fp32."""
    model = build_model(CONFIGS[config_name], seed=3)
    items = random_items(seed=2, count=5)
    full, rounded = (scorer(model, precision=precision).score(items, DIRECTIONS) for precision in ("fp32", "bf16"))
    for one, other in zip(full, rounded, strict=True):
        for ours, theirs in zip(one.endings, other.endings, strict=True):
            assert ours.log_prob == pytest.approx(theirs.log_prob, rel=0.02)
    assert [s.endings[0].log_prob for s in full] != [s.endings[0].log_prob for s in rounded]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_scoring_leaves_the_model_as_it_was() -> None:
    model = build_model(small_config(), seed=0)
    before = copy.deepcopy(model.state_dict())
    scorer(model).score(random_items(seed=0, count=2), ["T->T"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bootstrap_intervals_cover() -> None:
    """Of many samples of a known coin, about 95 % of intervals hold its bias; pairs cancel what is hard for both."""
    rng = np.random.default_rng(0)
    bias, inside = 0.7, 0
    for trial in range(300):
        interval = bootstrap((rng.random(200) < bias).astype(float).tolist(), seed=trial)
        inside += interval.low <= bias <= interval.high
    assert 0.91 <= inside / 300 <= 0.98
    items = random_items(seed=7, count=40)
    scored = scorer(bigram(0)).score(items, ["T->T", "S->S"])
    assert accuracy(scored, "token") == accuracy(scored, "token")
    same = difference(scored, scored, "token")
    assert same.value == 0.0
    assert same.low == -same.high < 0.0, "no difference on forty items is not none on all"
    with pytest.raises(ConfigError, match="same items"):
        difference(scored, select(scored, "T->T"), "token")
    assert isinstance(scored[0], Scored)
