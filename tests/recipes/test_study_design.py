"""What a study plans and reads: equal budgets, arms that differ, curves at equal operations, records that outlive checkpoints."""

import gzip
import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.study.design.arms import budget_of, elements_of
from recipes.study.design.facts import ArmFacts, StudyFacts
from recipes.study.design.settings import Control, Study
from recipes.study.records.ledger import Ledger
from recipes.study.records.readings import accuracy, at, difference
from schemas.config import ConfigError
from tests.recipes.small_study import MODEL, STATIC

positive = st.floats(0.05, 20.0)


@given(positive, positive, st.floats(1.0, 3.0), st.sampled_from(["compute", "data", "clock"]))
def test_a_control_gives_every_arm_what_the_baseline_has(
    flops: float, seconds: float, content: float, control: Control
) -> None:
    """Operations, content or core seconds of an arm's budget are the baseline's, whatever an element of the arm costs."""
    study = small_study()
    base = arm_facts(flops=3.0, seconds=0.5, content=1.0)
    mine = arm_facts(flops=flops, seconds=seconds, content=content)
    facts = StudyFacts(arms={"plain": base, "static": mine}, shares={}, rounds=1, steps_per_round=1)
    elements = elements_of(budget_of(study, facts, "static", control), mine)
    per_element = {"compute": "flops_per_element", "data": "content_per_element", "clock": "seconds_per_element"}[
        control
    ]
    given_to_base = study.training.budget_elements * getattr(base, per_element)
    assert elements * getattr(mine, per_element) == pytest.approx(given_to_base, rel=2e-3)


def small_study() -> Study:
    """A study that nothing is run of."""
    arms = {
        name: {"kind": kind, "patches": STATIC, "seeds": [1]} for name, kind in (("plain", "plain"), ("static", "lst"))
    }
    return Study.model_validate(
        {
            "name": "x", "runs_dir": "x", "results_dir": "x", "page": "x", "model": MODEL, "arms": arms, "controls": ["compute"],
            "data": {
                "speech": "x", "text": "x", "held_out": 0.1, "weights": {"interleaved": 1, "speech": 1, "text": 1},
                "spans": {"rule": "paper"}, "text_tokens": 300, "unit_tokens": 60,
            },
            "training": {
                "elements": 256, "global_microbatches": 1, "budget_elements": 1e4, "optimiser": {"kind": "adamw", "lr": 1e-3},
                "rates": [1e-3], "rate_share": 0.1, "warmup_steps": 1, "decay_share": 0.2, "clip_norm": 1.0, "precision": "fp32",
            },
            "measures": {"held_out_documents": 1, "curve_documents": 1, "curve_points": 2, "tasks": []},
        }
    )  # fmt: skip


def arm_facts(*, flops: float, seconds: float, content: float) -> ArmFacts:
    return ArmFacts(
        parameters=1, global_parameters=1, local_parameters=0, embedding_parameters=0, latents=1, latents_per_element=1.0,
        fill=1.0, content_per_element=content, flops_per_element=flops, seconds_per_element=seconds,
    )  # fmt: skip


@given(st.lists(st.tuples(st.floats(0.1, 9.0), st.floats(-5, 5)), min_size=2, max_size=9), st.floats(0, 1))
def test_a_curve_read_at_equal_operations_lies_on_its_line(steps: list[tuple[float, float]], share: float) -> None:
    """On a metrics file with known values: exact at the points, between its neighbours elsewhere, nothing beyond its ends."""
    flops = list(itertools.accumulate(step for step, _ in steps))
    curve: list[dict[str, Any]] = [{"flops": x, "held": y} for x, (_, y) in zip(flops, steps, strict=True)]
    curve.insert(1, {"flops": flops[0] + 0.01})  # a row without the loss
    for x, (_, y) in zip(flops, steps, strict=True):
        assert at(curve, "flops", x, "held") == pytest.approx(y)
    middle = flops[0] + share * (flops[1] - flops[0])
    found = at(curve, "flops", middle, "held")
    assert found == pytest.approx(steps[0][1] + share * (steps[1][1] - steps[0][1]), abs=1e-6)
    assert at(curve, "flops", flops[-1] + 1, "held") is None


def test_accuracies_of_a_record_are_those_of_its_points() -> None:
    record = {"measures": {"tasks": {"t": {"easy": {"T->T": {"token": "1150"}}, "hard": {"T->T": {"token": "0000"}}}}}}
    other = {"measures": {"tasks": {"t": {"easy": {"T->T": {"token": "0000"}}, "hard": {"T->T": {"token": "0000"}}}}}}
    easy, both, more = (
        accuracy(record, "t", "T->T", "easy"),
        accuracy(record, "t", "T->T"),
        difference(record, other, "t", "T->T"),
    )
    assert easy is not None
    assert both is not None
    assert more is not None
    assert (easy.value, both.value, more.value) == (0.625, 0.3125, 0.3125)
    assert both.low <= both.value <= both.high
    assert accuracy(record, "t", "S->S") is None


def test_log_likelihoods_outlive_the_checkpoint() -> None:
    """What a record keeps gives the same choices and twins; a unit BPE's own counts of units come back too."""
    from dataclasses import replace

    from model.scoring.accuracy import twins_of
    from model.scoring.scorer import EndingScore, Scored
    from recipes.study.records.choices import log_probs, read_scored, task_facts

    def ending(log_prob: float, elements: int) -> EndingScore:
        return EndingScore(log_prob=log_prob, elements=elements, length=0.2 * elements, joint=-9.0, joint_elements=9)

    scored = [
        Scored(
            id=f"{pair}-{side}", group="g", direction=direction, answer=side, cluster=str(pair), choice=f"c{pair}",
            endings=(ending(-1.25 - pair - side, 5), ending(-2.5 + pair, 7)),
        )
        for direction in ("S->S", "T->T") for pair in range(3) for side in range(2)
    ]  # fmt: skip
    facts = json.loads(json.dumps(task_facts(scored)))
    back = read_scored(facts, json.loads(json.dumps(log_probs(scored, facts))))
    assert [s.point("token") for s in back] == [s.point("token") for s in scored]
    assert twins_of(back) == twins_of(scored)
    shorter = [replace(s, endings=(ending(-1.0, 3), ending(-2.0, 4))) for s in scored]
    back = read_scored(facts, log_probs(shorter, facts))
    assert [e.elements for e in back[0].endings] == [3, 4]


@given(st.lists(st.integers(0, 300_000)))
def test_log_likelihoods_are_kept_by_place(numbers: list[int]) -> None:
    """Their digits, those of one place beside each other, are the numbers again; so are the decimals of older records."""
    from recipes.study.records.choices import numbers_of, places_of

    assert numbers_of(places_of(numbers)) == numbers
    assert numbers_of(" ".join(",".join(map(str, numbers[at : at + 2])) for at in range(0, len(numbers), 2))) == numbers
    assert places_of([10, 255, 3]) == ["0f0", "af3"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_points_come_back_from_rounded_log_likelihoods(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A record keeps only where they differ: near ties that rounding hides, ties, and the likelihood of the whole."""
    from model.scoring.scorer import EndingScore, Scored
    from recipes.study.records.choices import log_probs, task_facts
    from recipes.study.records.points import points_of

    near = st.sampled_from([-1.0, -1.001, -1.004, -1.006, -2.0])

    def ending() -> EndingScore:
        return EndingScore(
            log_prob=data.draw(near), elements=data.draw(st.sampled_from([4, 5])), length=data.draw(st.sampled_from([0.5, 0.7])),
            joint=data.draw(near), joint_elements=9,
        )  # fmt: skip

    groups = data.draw(st.lists(st.sampled_from("ab"), min_size=1, max_size=6))
    scored = [
        Scored(id=f"i{number}", group=group, direction=direction, answer=number % 2, endings=(ending(), ending()), choice="c")
        for direction in ("S->S", "T->T") for number, group in enumerate(groups)
    ]  # fmt: skip
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    facts = json.loads(json.dumps(task_facts(scored)))
    assert ledger.write("tasks/t", facts).name == "t.json.xz"
    measures = {"tasks": {"t": points_of(scored)}, "choices": {"t": log_probs(scored, facts)}}
    path = ledger.write("runs/r", {"lr": 0.1, "curve": [{"step": 1}], "measures": measures})
    written = json.loads(path.read_text())
    assert (written["lr"], written["measures"], written["more"]) == (0.1, {"tasks": {}}, "r.more.json.xz")
    assert "curve" not in written, "what is large lies beside it"
    for read in (ledger.read("runs/r"), ledger.all("runs")["r"]):
        assert (read["measures"], read["curve"]) == (measures, [{"step": 1}])
    kept = ledger.all("runs", points=False)["r"]["measures"]
    assert kept["choices"] == measures["choices"]
    path.write_text(json.dumps({"measures": kept}))
    assert ledger.read("runs/r")["measures"] == measures, "as the first records were kept"
    (path.parent / "r.choices.json.gz").write_bytes(gzip.compress(json.dumps(kept["choices"]).encode()))
    (path.parent.parent / "tasks" / "t.json.xz").unlink()
    (path.parent.parent / "tasks" / "t.json.gz").write_bytes(gzip.compress(json.dumps(facts).encode()))
    path.write_text(json.dumps({"measures": {**kept, "choices": "r.choices.json.gz"}}))
    assert ledger.read("runs/r")["measures"] == measures, "as they were kept until 2026-11-27"
    assert ledger.write("tasks/t", facts).name == "t.json.gz"
    assert ledger.read("tasks/t")["format"] == 1, "what is written anew over such a file is packed as its name says"


def test_an_arm_may_differ_in_its_model_and_optimiser() -> None:
    """Changes are merged mapping by mapping, a plain arm keeps its global part, and a field that is none is refused."""
    from model.describe import Mix
    from recipes.study.design.arms import model_of
    from recipes.study.design.settings import Arm

    study = small_study()
    mix = Mix(interleaved=1.0, speech=0.5, context=64)
    arm = Arm.model_validate(
        {"kind": "lst", "patches": STATIC, "seeds": [1], "model": {"patch_decoder": {"num_layers": 3}}}
    )
    changed = model_of(study, arm, mix)
    assert changed.patch_decoder is not None
    assert changed.patch_decoder.num_layers == 3
    assert changed.patch_decoder.dim == MODEL["patch_decoder"]["dim"]
    assert changed.patch_encoder == study.model.patch_encoder
    ngrams = {"ngrams": {"sizes": [3, 4], "buckets": 64}}
    plain = Arm.model_validate({"kind": "plain", "patches": STATIC, "seeds": [1], "model": ngrams})
    found = model_of(study, plain, mix)
    assert found.ngrams is not None, "embeddings of n-grams are not LST's alone"
    assert (found.kind, found.ngrams.sizes) == ("plain", (3, 4))
    wrong = arm.model_copy(update={"model": {"patch_decoder": {"num_layer": 3}}})
    with pytest.raises(ConfigError, match="num_layers"):
        model_of(study, wrong, mix)
