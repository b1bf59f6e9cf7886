"""What watches over a run: the spike guard, the z-loss, deterministic algorithms, the profiler; and losses by source."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from model.monitor.metrics import read_rows
from model.training import run as run_module
from model.training.config import TimeoutConfig
from model.training.distributed import ranks
from model.training.run import Run
from schemas.errors import ConfigError
from tests.model.training.training_runs import losses, run_document, run_here, trajectory

SPIKE = 12
"""The step whose loss and gradients jump."""


def make_spike(patch: pytest.MonkeyPatch, broken_off_at: int | None = None) -> None:
    """Multiply loss and gradients of step SPIKE by a hundred; break the run off in another."""
    launch, accumulate, step = Run.launch, run_module.accumulate, [0]

    def noticing(self: Run) -> Any:
        step[0] = self.steps + 1
        return launch(self)

    def spiking(module: torch.nn.Module, *rest: Any) -> torch.Tensor:
        totals = accumulate(module, *rest)
        if step[0] == broken_off_at:
            raise RuntimeError("broken off")
        if step[0] == SPIKE:
            totals[:2] *= 100
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.grad *= 100
        return totals

    patch.setattr(Run, "launch", noticing)
    patch.setattr(run_module, "accumulate", spiking)


@pytest.mark.parametrize("bound", ["loss", "grad_norm"])
def test_a_spike_is_left_out_counted_and_the_guard_goes_on_bitwise(
    bound: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its history is in the checkpoint: a run broken off just before the spike refuses it as the undisturbed run does."""
    spikes = {"loss": None, "grad_norm": None, "window": 8, "patience": 4, bound: 5.0}
    for name, broken_off_at in (("whole", None), ("resumed", SPIKE - 1)):
        document = {**run_document(data, tmp_path / name), "spikes": spikes}
        with monkeypatch.context() as patch:
            make_spike(patch, broken_off_at)
            if broken_off_at is None:
                assert run_here(document, tmp_path) == 0
            else:
                with pytest.raises(RuntimeError):
                    run_here(document, tmp_path)
        if broken_off_at is not None:
            with monkeypatch.context() as patch:
                make_spike(patch)
                assert run_here(document, tmp_path) == 0
    rows = read_rows(tmp_path / "whole" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["skipped"]] == [SPIKE]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert trajectory(tmp_path / "resumed") == trajectory(tmp_path / "whole")
    facts = json.loads((tmp_path / "whole" / "checkpoints" / "step-00000020" / "checkpoint.json").read_text())
    assert facts["consumed"]["skipped"] == 1
    assert len(facts["spikes"][bound]) == 8


def test_a_guard_that_never_refuses_changes_no_bit(data: Path, tmp_path: Path) -> None:
    run_here(run_document(data, tmp_path / "plain"), tmp_path, "budget.steps=6")
    guarded = {**run_document(data, tmp_path / "guarded"), "spikes": {"loss": 1e9}, "deterministic": True}
    run_here(guarded, tmp_path, "budget.steps=6")
    assert losses(tmp_path / "guarded") == losses(tmp_path / "plain")
    assert not torch.are_deterministic_algorithms_enabled()


def test_z_loss_pulls_the_partition_function_to_one_and_is_no_part_of_the_loss(data: Path, tmp_path: Path) -> None:
    """The first step's loss is the same: it is reported without the term. Later ones differ."""
    for name, z_loss in (("without", 0.0), ("with", 0.5)):
        run_here({**run_document(data, tmp_path / name), "z_loss": z_loss}, tmp_path, "budget.steps=6")
    without, others = losses(tmp_path / "without"), losses(tmp_path / "with")
    assert others[0] == without[0]
    assert others[-1][1] != without[-1][1]
    assert abs(others[-1][1] - without[-1][1]) < 1


def test_losses_by_source_add_up_and_bytes_are_those_of_the_text(data: Path, tmp_path: Path) -> None:
    document = run_document(data, tmp_path / "run")
    document["data"]["sources"].append({**document["data"]["sources"][1], "kind": "tts", "weight": 0.5})
    run_here(document, tmp_path, "budget.steps=6")
    for row in read_rows(tmp_path / "run" / "metrics.jsonl"):
        by_source = [name for name in row if name.startswith("source_")]
        assert {"source_interleaved_loss_text", "source_speech_loss_speech", "source_tts_loss_text"} <= set(by_source)
        for modality in ("text", "speech"):
            parts = [row[name] for name in by_source if name.endswith(modality)]
            assert min(parts) < row[f"loss_{modality}"] < max(parts)
        # a token of this small vocabulary writes one to five bytes, and marks are left out
        assert row["loss_text"] / math.log(2) / 5 < row["bits_per_byte_of_text"] < row["loss_text"] / math.log(2)
        assert row["elements_per_second_per_rank"] == row["elements_per_second"]
        assert 0.05 < row["host_memory_peak_gib"] < 64


def test_a_profile_of_two_steps_lies_in_the_run(data: Path, tmp_path: Path) -> None:
    document = run_document(data, tmp_path / "run")
    document["log"]["profile"] = {"first": 2, "steps": 2, "memory": True}
    assert run_here(document, tmp_path, "budget.steps=4") == 0
    folder = tmp_path / "run" / "profile"
    assert "aten::mm" in (folder / "steps-2-3-rank-0.txt").read_text()
    with gzip.open(folder / "steps-2-3-rank-0.trace.json.gz", "rt") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {"aten::mm", "[memory]"} <= names


def test_more_ranks_than_gpus_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with (
        pytest.raises(ConfigError, match=r"rank 2 .* has no GPU: there are 2: .*--nproc-per-node 2"),
        ranks(TimeoutConfig()),
    ):
        pass
