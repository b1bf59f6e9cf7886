"""Patch policies: what each does by hand, what all promise, and that generation draws the same patches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from model.data.document import Document
from model.data.patching import (
    CurriculumConfig,
    NoveltyRule,
    OnlinePatcher,
    PatchPolicyConfig,
    aligned_probability,
    assign_patches,
    choose_policy,
)
from tests.model.network.cases import ALIGNED, POLICIES, STATIC, VOCABULARY, make_document, policy

WORD, SILENCE = 0, 1


def parse(**fields: object) -> PatchPolicyConfig:
    parsed: PatchPolicyConfig = TypeAdapter(PatchPolicyConfig).validate_python(fields)
    return parsed


def speech(kinds: str, starts: str, tokens: str = "", units: list[int] | None = None) -> Document:
    """BOS <s> units EOS; `kinds` spells w(ord) or s(ilence) per unit, `starts` and `tokens` mark beginnings with |."""
    size = len(kinds)
    ids = [1, 4, *(units or [VOCABULARY.unit_offset] * size), 2]
    unit = np.asarray([False, False, *[True] * size, False])

    def spread(flags: list[bool]) -> np.ndarray:
        return np.asarray([False, False, *flags, False])

    kind = np.full(len(ids), -1, dtype=np.int8)
    kind[unit] = [SILENCE if letter == "s" else WORD for letter in kinds]
    return Document(
        ids=np.asarray(ids, dtype=np.int32),
        is_unit=unit,
        patch_start=spread([mark == "|" for mark in starts]),
        patch_kind=kind,
        token_start=spread([mark == "|" for mark in tokens or "." * size]),
        target=np.arange(len(ids)) > 0,
        sample_id="spoken",
    )


def patches(config: PatchPolicyConfig, document: Document, progress: float = 0.0) -> tuple[str, str]:
    """Units' patches as starts (|) and units known to end one (x)."""
    latent_id, closed = assign_patches(config, document, progress, np.random.default_rng(0))
    starts = np.diff(latent_id, prepend=-1) > 0
    inside = slice(2, -1)
    return "".join("|" if s else "." for s in starts[inside]), "".join("x" if c else "." for c in closed[inside])


def test_static() -> None:
    assert patches(parse(policy="static", size=3), speech("w" * 8, "|.......")) == ("|..|..|.", "..x..x..")


def test_aligned_with_silences_apart() -> None:
    starts = patches(parse(**ALIGNED), speech("wwwssww", "|..|.|."))
    assert starts == ("|..|.|.", ".......")


@pytest.mark.parametrize(
    "kinds, starts, merged",
    [
        ("wwwssww", "|..|.|.", "|....|."),  # to the word before
        ("sswww", "|.|..", "|...."),  # to the word after, where the span begins with silence
        ("sswwwsww", "|.|..||.", "|.....|."),
    ],
)
def test_aligned_with_silences_merged(kinds: str, starts: str, merged: str) -> None:
    config = parse(policy="aligned", silence="merged", max_size=100)
    assert patches(config, speech(kinds, starts))[0] == merged


def test_a_long_word_is_cut_and_the_cut_is_known() -> None:
    config = parse(policy="aligned", silence="separate", max_size=3)
    assert patches(config, speech("wwwwwwww", "|....|..")) == ("|..|.|..", "..x....x")


def test_bpe_aligned_cuts_words_at_tokens() -> None:
    config = parse(policy="bpe_aligned", max_size=100)
    assert patches(config, speech("wwwwsww", "|...||.", "|.|..|."))[0] == "|.|.||."


def test_novelty_closes_at_a_change_after_the_least_length_or_at_the_greatest() -> None:
    a, b, c = (VOCABULARY.unit_offset + i for i in range(3))
    config = parse(policy="dynamic", rule="novelty", min_size=2, max_size=4)
    units = [a, b, b, c, c, c, c, c, a]
    #        a  b| b  c| c  c  c  c| a
    assert patches(config, speech("w" * 9, "|........", units=units)) == ("|.|.|...|", ".x.x...x.")


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 5), st.integers(0, 5))
def test_the_novelty_rule_equals_its_definition(units: list[int], least: int, more: int) -> None:
    rule, expected, length = NoveltyRule(least, least + more), [], 0
    for index, unit in enumerate(units):
        length += 1
        new = length > 1 and unit != units[index - 1]
        ends = (new and length >= least) or length == least + more
        expected.append(ends)
        length = 0 if ends else length
    assert rule.ends(np.asarray(units, dtype=np.int32)).tolist() == expected


@given(st.integers(0, 10_000), st.sampled_from(sorted(POLICIES)), st.integers(3, 60))
@settings(deadline=None)
def test_what_every_policy_promises(seed: int, name: str, length: int) -> None:
    document = make_document(np.random.default_rng(seed), length)
    latent_id, closed = assign_patches(policy(name), document, 0.5, np.random.default_rng(seed))
    assert latent_id.dtype == np.int32
    assert closed.dtype == bool
    assert latent_id[0] == 0
    step = np.diff(latent_id)
    assert set(step.tolist()) <= {0, 1}
    shared = step == 0
    assert (document.is_unit[1:] & document.is_unit[:-1])[shared].all()  # only units share, and never across a mark
    assert closed[~document.is_unit].all()
    assert not closed[:-1][shared].any()  # what is complete is not added to


@given(st.integers(0, 10_000), st.sampled_from(["static", "dynamic", "learned", "static1", "mixed", "curriculum"]))
@settings(deadline=None)
def test_generation_draws_the_patches_of_training(seed: int, name: str) -> None:
    config = policy(name)
    document = make_document(np.random.default_rng(seed), 50)
    offline = config.otherwise if name in ("mixed", "curriculum") else config
    latent_id, closed = assign_patches(offline, document, 1.0, np.random.default_rng(0))
    online = OnlinePatcher(config)
    seen = [online.observe(int(e), bool(u)) for e, u in zip(document.ids, document.is_unit, strict=True)]
    assert [begins for begins, _ in seen] == (np.diff(latent_id, prepend=-1) > 0).tolist()
    assert [ends for _, ends in seen] == closed.tolist()


def test_the_curriculum_follows_the_papers_line() -> None:
    config = parse(policy="curriculum", aligned=ALIGNED, otherwise=STATIC, tau1=0.25, tau2=0.75)
    assert isinstance(config, CurriculumConfig)
    assert [aligned_probability(config, p) for p in (0, 0.2, 0.25, 0.5, 0.75, 1)] == [1, 1, 1, 0.5, 0, 0]


@pytest.mark.parametrize(
    "fields, progress, probability",
    [
        ({"policy": "mixed", "probability": 0.3}, 0.9, 0.3),
        ({"policy": "curriculum", "tau1": 0.2, "tau2": 0.6}, 0.5, 0.25),
    ],
)
def test_the_draw_is_per_document(fields: dict, progress: float, probability: float) -> None:
    config, rng = parse(aligned=ALIGNED, otherwise=STATIC, **fields), np.random.default_rng(0)
    drawn = [choose_policy(config, progress, rng).policy == "aligned" for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: parse(policy="static", size=0), "greater than or equal to 1"),
        (lambda: parse(policy="static", sizes=4), "did you mean 'size'"),
        (lambda: parse(policy="dynamic", rule="novelty", min_size=5, max_size=4), "must not exceed max_size"),
        (
            lambda: parse(policy="curriculum", aligned=ALIGNED, otherwise=STATIC, tau1=0.5, tau2=0.1),
            "must not exceed tau2",
        ),
        (lambda: patches(parse(**ALIGNED), speech("www", "...")), "spoken.*needs word patches"),
        (lambda: patches(parse(policy="bpe_aligned", max_size=9), speech("www", "|..")), "character times"),
    ],
)
def test_what_cannot_be_done_says_why(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_text_needs_no_alignment() -> None:
    document = make_document(np.random.default_rng(0), 3)
    assert not document.is_unit.any()
    for name in POLICIES:
        latent_id, closed = assign_patches(policy(name), document, 0.0, np.random.default_rng(0))
        assert latent_id.tolist() == [0, 1, 2]
        assert closed.all()


def test_speech_without_words_needs_no_character_times() -> None:
    """A segment in which nobody speaks ended a run of BPE-aligned patches."""
    assert patches(parse(policy="bpe_aligned", max_size=9), speech("sss", "|..")) == ("|..", "...")
