"""`python -m model.score` on a run of its own: tables, JSON, the same bytes again, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from model.data.text_tokenizer import _HuggingFace
from model.inference.trained import load_trained
from model.score import main, preferences
from model.scoring.accuracy import accuracy, select
from model.scoring.scorer import EndingScore, Scored, score_task
from model.train import main as train
from model.training.checkpoint import latest
from schemas.cards import Card
from schemas.tasks import TaskHeader, TaskItem, read_task, write_task
from tests.model.next_task import write_next_task
from tests.model.training.training_runs import run_document, write_data, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints at steps 2 and 4, and a task out of its own shards: endings of passages, right and wrong."""
    folder = tmp_path_factory.mktemp("score")
    write_data(folder / "data")
    config = write_run(run_document(folder / "data", folder / "run"), folder / "run.yaml")
    assert train([str(config), "budget.steps=4"]) == 0
    write_next_task(folder / "data" / "speech" / "index.json", folder / "task.jsonl")
    return folder


def test_tables_and_figures_that_can_be_traced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = latest(folder / "run" / "checkpoints")
    assert newest is not None
    older = newest.with_name("step-00000002")
    arguments = [str(folder / "task.jsonl"), "--checkpoint", str(folder / "run"), "--against", str(older)]
    for name in ("one", "two"):
        assert (
            main([*arguments, "--json", str(folder / name), "--max-elements", {"one": "8192", "two": "300"}[name]]) == 0
        )
    assert (folder / "one").read_bytes() == (folder / "two").read_bytes(), "the batch shows"
    shown = capsys.readouterr().out
    report = json.loads((folder / "one").read_text())
    assert {row["direction"] for row in report["accuracies"]} == {"S->S", "T->T", "S->T", "T->S"}
    assert "S->S: 1 of" in shown, "an item of text alone is left out, and that is said"
    task = read_task(folder / "task.jsonl")
    scored = score_task(load_trained(folder / "run"), task)
    for row in report["accuracies"]:
        members = select(scored, row["direction"], None if row["group"] == "all" else row["group"])
        interval = accuracy(members, row["normalisation"])
        assert (row["value"], row["low"], row["high"], row["items"]) == (
            interval.value, interval.low, interval.high, len(members),
        )  # fmt: skip
        assert f"{interval.value:6.3f} [{interval.low:.3f}, {interval.high:.3f}]" in shown
    ours, theirs, paired = report["accuracies"], report["against"]["accuracies"], report["differences"]
    for a, b, c in zip(ours, theirs, paired, strict=True):
        assert c["value"] == pytest.approx(a["value"] - b["value"])
        assert c["low"] <= c["value"] <= c["high"]
    assert len(report["items"]) == len(scored)
    assert report["items"] != report["against"]["items"], "two steps of training change scores"
    assert report["items"][0]["endings"][0]["log_prob"] == scored[0].endings[0].log_prob < 0


def test_twins_are_told_by_their_preference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Items of a cluster with swapped answers make a row of their own, in the table and in the file, with paired differences."""
    task = read_task(folder / "task.jsonl")
    prompts = [item.prompt for item in task.items[:4]]
    endings = [ending.model_dump() for ending in task.items[0].endings]
    items = [
        task.items[0].with_updates(
            id=f"{pair}-{side}",
            cluster=str(pair),
            answer=side,
            prompt=prompts[pair + side].model_dump(),
            endings=endings,
        )
        for pair in range(2)
        for side in range(2)
    ]
    write_task(folder / "twins.jsonl", task.header, items)
    newest = latest(folder / "run" / "checkpoints")
    assert newest is not None
    older = str(newest.with_name("step-00000002"))
    arguments = [str(folder / "twins.jsonl"), "--checkpoint", str(folder / "run"), "--against", older]
    assert main([*arguments, "--json", str(folder / "twins.json")]) == 0
    report = json.loads((folder / "twins.json").read_text())
    shown = capsys.readouterr().out
    for name, scores in (("preferences", report["items"]), ("against", report["against"]["items"])):
        rows = report[name] if name == "preferences" else report["against"]["preferences"]
        assert [row["direction"] for row in rows] == ["S->S", "T->T", "S->T", "T->S"]
        for row in rows:
            lp = [[e["log_prob"] for e in item["endings"]] for item in scores if item["direction"] == row["direction"]]
            margins = [lp[i][0] + lp[i + 1][1] - lp[i][1] - lp[i + 1][0] for i in (0, 2)]
            assert row["nats"]["value"] == pytest.approx(sum(margins) / 4, abs=1e-5)
            assert row["preference"]["clusters"] == 2
    paired = report["preference_differences"]
    assert paired[0]["nats"]["value"] == pytest.approx(
        report["preferences"][0]["nats"]["value"] - report["against"]["preferences"][0]["nats"]["value"], abs=1e-5
    )
    assert "nats per ending" in shown


def test_p_is_of_the_preference_that_stands_beside_it() -> None:
    """A model with all margins doubled prefers nothing else: no difference of preferences, and p says so; nats differ."""
    surer = [
        Scored(
            id=f"{pair}-{side}", group="g", direction="S->S", answer=side, cluster=str(pair), choice="c",
            endings=tuple(EndingScore(log_prob=-1.0 - nats * (n != side), elements=1, length=1.0, joint=-1.0, joint_elements=1)
                          for n in range(2)),
        )
        for pair in range(12) for side in range(2) for nats in [2.0]
    ]  # fmt: skip
    less = [replace(s, endings=tuple(replace(e, log_prob=(e.log_prob - 1) / 2) for e in s.endings)) for s in surer]
    (own,), (paired,) = preferences(surer), preferences(surer, less)
    assert own["p"] == pytest.approx(2 / 2**12)
    assert (paired["preference"]["value"], paired["nats"]["value"], paired["p"]) == (0.0, 1.0, 1.0)


def drop_invisible(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer keeps nothing of zero-width spaces, as many do by their normaliser."""
    encode = _HuggingFace.encode
    monkeypatch.setattr(_HuggingFace, "encode", lambda self, text: encode(self, text.replace("\u200b", "").rstrip()))


def test_an_ending_of_which_no_token_is_left_is_named_before_scoring(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It divided by zero when everything had been scored."""
    drop_invisible(monkeypatch)
    task = read_task(folder / "task.jsonl")
    endings = [{"text": "of course"}, {"text": "\u200b"}]
    for name, prompt in (("first", ""), ("later", "the and")):
        item = TaskItem.model_validate(
            {"id": name, "group": "g", "prompt": {"text": prompt}, "endings": endings, "answer": 0}
        )
        write_task(tmp_path / "task.jsonl", task.header, [*task.items, item])
        assert main([str(tmp_path / "task.jsonl"), "--checkpoint", str(folder / "run"), "--directions", "T->T"]) == 2
        said = capsys.readouterr().err
        assert f"{tmp_path}/task.jsonl: item {name!r} has the ending '\\u200b', of which the model's tokenizer" in said


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--against", "runs/y"], "--against"),
        (["task.jsonl", "--directions", "S->S", "--max-elements", "9"], "task, --directions, --max-elements"),
        (["--patching", "static:4"], "--patching"),
    ],
)
def test_losses_refuse_what_they_do_not_read(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comparison that was asked for and never made looked like one."""
    assert main([*arguments, "--losses", "3", "--checkpoint", "gone"]) == 2
    assert f"own held-out speech and reads no {named}: leave that out" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = read_task(folder / "task.jsonl")
    (ours,) = task.header.cards or {}
    other = Card(kind="unit_tokenizer", name="other", facts={"units": 1})

    def refused(header: TaskHeader, *arguments: str) -> str:
        write_task(folder / "changed.jsonl", header, task.items)
        code = main([str(folder / "changed.jsonl"), "--checkpoint", str(folder / "run"), *arguments])
        assert code == 2
        return capsys.readouterr().err

    changed = task.header.with_updates(cards={other.card_id: other.model_dump()})
    message = refused(changed)
    assert ours in message
    assert other.card_id in message
    assert main([str(folder / "changed.jsonl"), "--checkpoint", str(folder / "run"), "--directions", "T->T"]) == 0
    assert "trained on 40 of 640 samples" in refused(task.header.with_updates(hop=320))
    assert "give one or more of" in refused(task.header, "--directions", "S->X")
    assert "unknown patching" in refused(task.header, "--patching", "random")
    assert "neither a checkpoint nor a run" in refused(task.header, "--against", str(folder))
    tokenizer = folder / "data" / "tokenizer.json"
    kept = tokenizer.read_text(encoding="utf-8")
    tokenizer.write_text(kept + "\n", encoding="utf-8")
    assert "the model was trained with" in refused(task.header)
    tokenizer.write_text(kept, encoding="utf-8")
    newest = latest(folder / "run" / "checkpoints")
    assert newest is not None
    facts = json.loads((newest / "checkpoint.json").read_text())
    (newest / "checkpoint.json").write_text(json.dumps({key: facts[key] for key in facts if key != "units"}))
    assert "does not say what made its units" in refused(task.header)
    (newest / "checkpoint.json").write_text(json.dumps(facts))
