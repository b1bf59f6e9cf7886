"""Evaluation while training: scores as `lst score` gives them, samples to hear, and a training that is none the wiser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.data.shards import ShardSet
from model.evaluation.records import evaluations
from model.inference.trained import load_trained
from model.monitor.metrics import read_rows
from model.scoring.accuracy import accuracy, select
from model.scoring.scorer import score_task
from schemas.tasks import TaskHeader, TaskItem, read_task, write_task
from tests.model.next_task import write_next_task
from tests.model.test_score import drop_invisible
from tests.model.training.training_runs import losses, run, run_document, run_here, write_data, write_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, their recordings, and a task made of them."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    shards = ShardSet(str(folder / "speech" / "index.json"))
    rng = np.random.default_rng(0)
    for shard, count in enumerate(shards.counts):
        for number in range(count):
            meta = shards.read(shard, number).meta
            soundfile.write(folder / meta.uri, 0.1 * rng.standard_normal(meta.num_frames * meta.hop), 16_000)
    write_next_task(folder / "speech" / "index.json", folder / "task.jsonl")
    return folder


def evaluated(data: Path, output: Path) -> dict[str, Any]:
    """A run with an evaluation every five steps."""
    document = run_document(data, output)
    document["budget"] = {"steps": 12}
    document["data"]["held_out"] = 0.2
    document["log"]["tensorboard"] = True
    document["evaluation"] = {
        "every_steps": 5,
        "tasks": [str(data / "task.jsonl")],
        "samples": 2,
        "texts": ["the of and"],
        "prompt_seconds": 1.0,
        "seconds": 0.5,
        "tokens": 5,
        "voice": {"audio_root": str(data)},
    }
    return document


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluated") / "run"
    assert run_here(evaluated(data, output), output.parent) == 0
    return output


def test_training_is_the_same_to_the_bit_with_and_without(data: Path, finished: Path, tmp_path: Path) -> None:
    document = evaluated(data, tmp_path / "without")
    document["evaluation"] = None
    assert run_here(document, tmp_path) == 0
    assert losses(finished) == losses(tmp_path / "without")


def test_the_scores_are_those_of_the_checkpoint_of_the_step(data: Path, finished: Path) -> None:
    """Step 10 has a checkpoint; step 12 is the last. The row and the record say what scoring it says."""
    assert [found.step for _, found in evaluations(finished)] == [5, 10, 12]
    scored = score_task(load_trained(finished / "checkpoints" / "step-00000010"), read_task(data / "task.jsonl"))
    rows = {row["step"]: row for row in read_rows(finished / "metrics.jsonl")}
    _, record = evaluations(finished)[1]
    for direction in ("S->S", "T->T", "S->T", "T->S"):
        expected = accuracy(select(scored, direction), "sum")
        assert rows[10][f"task_next_{direction}_sum"] == expected.value
        (found,) = (a for a in record.accuracies if (a.direction, a.normalisation) == (direction, "sum"))
        assert (found.value, found.low, found.high, found.items) == (
            expected.value, expected.low, expected.high, expected.items,
        )  # fmt: skip
    assert "task_next_T->T_sum" not in rows[9]


def test_samples_can_be_heard_and_go_to_the_boards(finished: Path) -> None:
    for folder, found in evaluations(finished):
        assert [sample.in_speech for sample in found.samples] == ["said-0.flac", "said-1.flac", "said-2.flac"]
        for sample, prompt in zip(found.samples, (1.0, 1.0, 0.0), strict=True):
            sound, rate = soundfile.read(folder / sample.in_speech)
            assert rate == 16_000
            assert sample.prompt_seconds == pytest.approx(prompt)
            assert prompt <= len(sound) / rate <= prompt + 0.5
        assert found.samples[2].prompt == "the of and"
    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Audio("said/0")] == [5, 10, 12]
    assert [event.step for event in events.Scalars("tasks/next_T->T_sum")] == [5, 10, 12]


def test_two_ranks_evaluate_their_gathered_weights(data: Path, finished: Path, tmp_path: Path) -> None:
    """The same accuracies as one rank's, to what losses differ by; a run that goes back forgets what lies beyond."""
    document = evaluated(data, tmp_path / "run")
    document["checkpoint"] = {"every_steps": 5, "keep": 9}
    run(write_run(document, tmp_path / "run.yaml"), world=2)
    found = [record for _, record in evaluations(tmp_path / "run")]
    wanted = [record for _, record in evaluations(finished)]
    assert [len(record.samples) for record in found] == [3, 3, 3]
    for ours, theirs in zip(found, wanted, strict=True):
        values, others = ([a.value for a in record.accuracies] for record in (ours, theirs))
        assert np.abs(np.subtract(values, others)).max() <= 0.15
    (tmp_path / "run" / "checkpoints" / "latest").write_text("step-00000005\n")
    run(write_run({**document, "budget": {"steps": 6}}, tmp_path / "run.yaml"))
    assert [record.step for _, record in evaluations(tmp_path / "run")] == [5, 6]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tasks": ["nowhere.jsonl"]}, "evaluation: cannot read nowhere.jsonl"),
        ({"voice": {}}, "evaluation: .*carries no audio"),
        ({"directions": ["S>S"]}, "evaluation.directions"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_the_first_step(
    change: dict[str, Any], message: str, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = evaluated(data, tmp_path / "run")
    document["evaluation"].update(change)
    assert run_here(document, tmp_path) == 2
    assert re.search(message, capfd.readouterr().err)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_ending_of_which_no_token_is_left_is_said_before_the_first_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    drop_invisible(monkeypatch)
    endings = [{"text": "\u200b"}, {"text": "of course"}]
    item = {"id": "unseen", "group": "g", "prompt": {"text": "the and"}, "endings": endings, "answer": 1}
    write_task(tmp_path / "task.jsonl", TaskHeader(task="unseen"), [TaskItem.model_validate(item)])
    document = evaluated(data, tmp_path / "run")
    document["evaluation"] |= {"tasks": [str(tmp_path / "task.jsonl")], "directions": ["T->T"]}
    assert run_here(document, tmp_path) == 2
    assert f"evaluation: {tmp_path}/task.jsonl: item 'unseen' has the ending" in capfd.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
