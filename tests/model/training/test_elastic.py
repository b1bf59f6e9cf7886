"""Real gloo processes: two ranks are one rank with doubled accumulation, and a run may change its ranks at every restart."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from model.monitor.metrics import read_rows
from tests.model.training.training_runs import (
    TORCHRUN,
    checkpoints,
    run,
    run_document,
    started,
    wait_until,
    write_run,
)

STEPS = 16


def document_of(data: Path, output: Path) -> dict[str, Any]:
    document = run_document(data, output)
    document["budget"] = {"steps": STEPS}
    document["validation"] = {"every_steps": 3, "batches": 3}
    document["data"]["held_out"] = 0.1
    document["checkpoint"] = {"keep": 9}
    return document


@pytest.fixture(scope="module")
def one_rank(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference: one process that accumulates all four micro-batches."""
    output = tmp_path_factory.mktemp("one") / "run"
    run(write_run(document_of(data, output), output.parent / "run.yaml"))
    return output


COMPARED = ("loss", "loss_text", "loss_speech", "validation_loss_text", "validation_loss_speech")
EXACT = (
    "step",
    "num_text",
    "num_units",
    "elements",
    "latents",
    "flops",
    "speech_seconds",
    "fill_elements",
    "fill_latents",
)


def assert_same_run(output: Path, reference: Path, tolerance: float) -> None:
    """The same global batches, by everything that is counted in them, and losses within `tolerance`."""
    rows, wanted = read_rows(output / "metrics.jsonl"), read_rows(reference / "metrics.jsonl")
    assert len(rows) == len(wanted) == STEPS
    for row, other in zip(rows, wanted, strict=True):
        assert {name: row[name] for name in EXACT} == pytest.approx({name: other[name] for name in EXACT}, rel=1e-12)
        for name in COMPARED:
            assert row.get(name) == pytest.approx(other.get(name), abs=tolerance), (row["step"], name)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_two_ranks_are_one_rank_with_doubled_accumulation(data: Path, one_rank: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run(write_run(document_of(data, output), tmp_path / "run.yaml"), world=2)
    assert_same_run(output, one_rank, 1e-6)


def test_one_two_four_one_ranks_go_on_as_one(data: Path, one_rank: Path, tmp_path: Path) -> None:
    """1 -> 2 -> 4 -> 1 ranks, killed in between, those of several while a checkpoint is written beside the training; four of them
    as two copies of two shards (HSDP): the same global batches, and losses equal to 1e-6."""
    output = tmp_path / "run"
    document = document_of(data, output)
    document["checkpoint"] = {"every_steps": 1, "keep": 2}
    config, metrics = write_run(document, tmp_path / "run.yaml"), output / "metrics.jsonl"
    beside = "checkpoint.beside=true"
    for world, rows, overrides in ((1, 3, []), (2, 7, [beside]), (4, 11, [beside, "sharding.group=2"])):
        with started(config, world, overrides) as ranks:
            assert wait_until(lambda rows=rows: len(read_rows(metrics)) >= rows), ranks.output()
            assert all(process.is_alive() for process in ranks.processes), "it ended before it could be killed"
    run(config)
    assert_same_run(output, one_rank, 1e-6)
    worlds = [json.loads(line)["world"] for line in metrics.read_text().splitlines()]
    assert [world for world, _ in itertools.groupby(worlds)] == [1, 2, 4, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change,tolerance",
    [
        ({"optimiser": {"kind": "muon", "lr": 0.01, "adamw": {"kind": "adamw", "lr": 3e-3}}}, 5e-3),  # bf16 inside
        ({"recompute": True}, 1e-6),
    ],
)
def test_sharded_muon_and_recomputation(change: dict[str, Any], tolerance: float, data: Path, tmp_path: Path) -> None:
    """On two ranks as on one. Muon's orthogonalisation runs in bfloat16, so its ranks agree less closely."""
    for world in (1, 2):
        document = {**document_of(data, tmp_path / str(world)), **change}
        run(write_run(document, tmp_path / f"{world}.yaml"), world=world)
    one, two = (read_rows(tmp_path / str(world) / "metrics.jsonl") for world in (1, 2))
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=tolerance)


def test_a_signal_to_one_rank_stops_all_with_one_checkpoint(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    config = write_run(document_of(data, output), tmp_path / "run.yaml")
    with started(config, 2) as ranks:
        assert wait_until(lambda: len(read_rows(output / "metrics.jsonl")) >= 2), ranks.output()
        os.kill(ranks.processes[1].pid, signal.SIGUSR1)
        assert ranks.wait() == [75, 75], ranks.output()
    assert [step for step, _ in checkpoints(output / "checkpoints")] == [len(read_rows(output / "metrics.jsonl"))]


def test_torchrun_starts_the_same_run(data: Path, one_rank: Path, tmp_path: Path) -> None:
    """The plain way to many ranks, from the command line."""
    output = tmp_path / "run"
    config = write_run(document_of(data, output), tmp_path / "run.yaml")
    done = subprocess.run([*TORCHRUN, str(config)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "speech  loss" in done.stdout
    assert done.stdout.count("text    loss") == 1, "one rank reports"
    assert_same_run(output, one_rank, 1e-6)


def test_ranks_that_do_not_fit_are_refused_before_the_first_step(data: Path, tmp_path: Path) -> None:
    document = document_of(data, tmp_path / "run")
    document["global_microbatches"] = 3
    printed = run(write_run(document, tmp_path / "run.yaml"), world=2, expect=2)
    assert "global_microbatches 3 cannot be dealt evenly to 2 ranks" in printed


@pytest.mark.parametrize(
    "world, sharding",
    [
        (4, ["sharding.group=2"]),
        (2, ["sharding.after_forward=keep"]),
        (2, ["sharding.reduce=micro_batch"]),
        (2, ["sharding.group=1", "sharding.reduce=micro_batch"]),
    ],
    ids=["a copy per pair of ranks", "weights kept after the forward pass", "dealt out each time", "a copy per rank"],
)
def test_every_way_to_shard_is_one_rank(
    data: Path, one_rank: Path, tmp_path: Path, world: int, sharding: list[str]
) -> None:
    output = tmp_path / "run"
    run(write_run(document_of(data, output), tmp_path / "run.yaml"), world=world, overrides=sharding)
    assert_same_run(output, one_rank, 1e-6)


def test_weights_that_travel_as_bf16_train_as_bf16_does(data: Path, tmp_path: Path) -> None:
    """Two ranks that gather bf16 against one rank: the same products, so losses agree to what bf16 rounds of norm gains."""
    document = document_of(data, tmp_path / "one")
    document["precision"], document["budget"] = "bf16", {"steps": 6}
    run(write_run(document, tmp_path / "one.yaml"))
    two = ["sharding.gather=bf16", f"output_dir={tmp_path / 'two'}"]
    run(write_run(document, tmp_path / "two.yaml"), world=2, overrides=two)
    one_rows, two_rows = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    for row, other in zip(one_rows, two_rows, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=5e-3)


def test_groups_that_do_not_fit_the_ranks_are_refused(data: Path, tmp_path: Path) -> None:
    output = run(
        write_run(document_of(data, tmp_path / "run"), tmp_path / "run.yaml"),
        world=2,
        overrides=["sharding.group=3"],
        expect=2,
    )
    assert "sharding.group 3 does not divide the 2 ranks" in output
