"""Kill it anywhere and it goes on as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from model.monitor.metrics import read_rows
from model.training.checkpoint import check_same_run, latest, read_facts
from model.training.config import TrainConfig, load_train_config
from schemas.errors import ConfigError
from tests.model.training.training_runs import (
    checkpoints,
    losses,
    run,
    run_document,
    started,
    trajectory,
    wait_until,
    write_data,
    write_run,
)
from tests.synthetic_shards import write_text_shards

STEPS = 60
"""Of every run here: so many that ten kills come before the end, also where each comes some steps late on a busy machine."""


def document_of(data: Path, output: Path) -> dict[str, Any]:
    return {**run_document(data, output), "budget": {"steps": STEPS}}


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    run(write_run(document_of(data, output), output.parent / "run.yaml"))
    return output


def weights(output: Path) -> dict[str, bytes]:
    """Every tensor of the newest checkpoint, optimiser state included. (The order within the file is not fixed.)"""
    newest = latest(output / "checkpoints")
    assert newest is not None
    (file,) = newest.glob("*.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()}


def damage(checkpoint: Path, rng: random.Random) -> None:
    """Change one byte of a file of tensors, behind its header, or cut it short."""
    (file,) = checkpoint.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    if rng.random() < 0.5:
        content[rng.randrange(len(content) // 2, len(content))] ^= 1
    else:
        del content[rng.randrange(len(content)) :]
    file.write_bytes(content)


def written(path: Path) -> int:
    """When a file was last written to; 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_often(
    config: Path, output: Path, times: int, damages: int, beside: bool, rng: random.Random
) -> tuple[int, int]:
    """SIGKILL the run so often, at random moments in steps and in checkpoint writes; damage the newest checkpoint between some
    of its lives, wherever there is one before it. Returns how often either came about."""
    kills = damaged = 0
    steps = int(load_train_config(config, []).budget.limits()["steps"])
    metrics = output / "metrics.jsonl"
    for number in range(times):
        newest = latest(output / "checkpoints")
        reached = int(newest.name[5:]) if newest else 0
        # what a thread writes is there some steps later
        goal = min(steps - 1, reached + rng.randint(1, 3) + 2 * beside)
        before = written(metrics)
        with started(config) as ranks:
            process = ranks.processes[0]
            assert wait_until(
                lambda goal=goal, before=before, process=process: (
                    not process.is_alive() or (written(metrics) != before and len(read_rows(metrics)) >= goal)
                )
            ), ranks.output()
            time.sleep(rng.random() * 0.05)
            kills += process.is_alive()
            ranks.kill()
        left, wanted = times - number, damages - damaged
        if len(checkpoints(output / "checkpoints")) > 1 and rng.random() < wanted / left:
            damage(latest(output / "checkpoints"), rng)
            damaged += 1
    return kills, damaged


@pytest.mark.parametrize(
    "times, damages, beside",
    [
        pytest.param(10, 0, False, id="written at once"),
        pytest.param(10, 5, True, id="written beside training, and damaged"),
        pytest.param(30, 5, True, id="thirty times", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_kills_at_random_moments_change_no_bit(
    times: int, damages: int, beside: bool, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The same losses, the same final weights. With the newest checkpoint damaged again and again besides, the one before it
    takes its place."""
    output, reference = tmp_path / "run", undisturbed
    document = document_of(data, output)
    if times > 10:
        reference = tmp_path / "undisturbed"
        document["budget"]["steps"] = 5 * times
        run(write_run({**document, "output_dir": str(reference)}, tmp_path / "undisturbed.yaml"))
    document["checkpoint"]["beside"] = beside
    config = write_run(document, tmp_path / "run.yaml")
    kills, damaged = kill_often(config, output, times, damages, beside, random.Random(5))
    assert kills >= times * (0.5 if beside and times == 10 else 0.8), "the run ended before it could be killed"
    assert damaged >= 0.6 * damages
    run(config)
    assert trajectory(output) == trajectory(reference)
    assert len(trajectory(output)) == document["budget"]["steps"]
    assert weights(output) == weights(reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_writes_a_checkpoint_and_asks_to_be_started_again(
    number: signal.Signals, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    document = document_of(data, output)
    document["checkpoint"] = {"keep": 1}  # by signal alone
    document["data"]["workers"] = 1  # the signal reaches loader processes too
    config = write_run(document, tmp_path / "run.yaml")
    with started(config) as ranks:
        assert wait_until(lambda: len(read_rows(output / "metrics.jsonl")) >= 4), ranks.output()
        os.kill(ranks.processes[0].pid, number)
        assert ranks.wait() == [75], ranks.output()
    stopped = len(losses(output))
    assert 4 <= stopped < STEPS
    assert [step for step, _ in checkpoints(output / "checkpoints")] == [stopped]
    run(config)
    assert trajectory(output) == trajectory(undisturbed)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda d: d["optimiser"].update(lr=1e-3), "optimiser.lr was 0.003 and is now 0.001"),
        (lambda d: d["model"]["global_transformer"].update(num_layers=3), "global_transformer.num_layers was 2 and is now 3"),
        (lambda d: d["data"]["sources"][0].update(weight=2.0), "data.sources.0.weight was 1.0 and is now 2.0"),
        (lambda d: d["data"]["sources"].pop(), "the data has changed (sources.text was"),
        (lambda d: d.update(seed=4), "seed was 3 and is now 4"),
        (lambda d: d["checkpoint"].update(resume=False), "checkpoint.resume is false"),
    ],
)  # fmt: skip
def test_a_changed_run_is_refused_and_told_what_changed(
    change, message: str, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    document = document_of(data, undisturbed)
    change(document)
    before = weights(undisturbed)
    printed = run(write_run(document, tmp_path / "changed.yaml"), expect=2)
    assert message in printed
    assert "Traceback" not in printed
    assert weights(undisturbed) == before


def test_a_run_of_an_earlier_version_goes_on(undisturbed: Path) -> None:
    """Its configuration lacks the fields that came later; they have their defaults there, and nothing has changed."""
    newest = latest(undisturbed / "checkpoints")
    assert newest is not None
    facts = read_facts(newest)
    config = TrainConfig.model_validate(facts["config"])
    facts["config"]["data"]["sources"][0].pop("min_word_score")
    del facts["identity"]["data.sources.0.min_word_score"]
    check_same_run(newest, facts, config, facts["data"])
    facts["config"]["data"]["sources"][0]["min_word_score"] = 0.5
    with pytest.raises(ConfigError, match=r"min_word_score was 0\.5 and is now 0\.0"):
        check_same_run(newest, facts, config, facts["data"])


def test_changed_shards_are_refused(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    """The data is known by its content: the same path with other shards behind it is not the same data."""
    other = tmp_path / "data"
    write_data(other)
    write_text_shards(other / "text", [12, 10])
    (other / "tokenizer.json").write_bytes((data / "tokenizer.json").read_bytes())
    printed = run(write_run(document_of(other, undisturbed), tmp_path / "run.yaml"), expect=2)
    assert "the data has changed (sources.text was" in printed


def test_moved_data_and_another_output_level_are_no_change(data: Path, tmp_path: Path) -> None:
    """Paths, worker counts and log settings may differ between two starts of a run."""
    output = tmp_path / "run"
    run(write_run(run_document(data, output), tmp_path / "run.yaml"), overrides=["budget.steps=4"])
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    document = run_document(moved, output)
    document["log"]["level"] = "info"
    document["data"]["workers"] = 2
    document["data"]["sources"][0]["data"] = str(moved / "speech" / "index.json")
    run(write_run(document, tmp_path / "moved.yaml"), overrides=["budget.steps=6"])
    assert len(losses(output)) == 6
