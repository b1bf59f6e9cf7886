"""The check of a GPU, where there is none: its page, its estimates, and what it makes of results."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model import gpu_check
from model.cost.memory import MemoryPlan, memory_by_part
from model.cost.presets import count_parameters
from model.cost.synthetic import synthetic_batch
from model.gpu.speed import MEASUREMENTS, attempt
from model.monitor.metrics import peak_of
from model.network.config import ModelConfig
from model.training.optimisation.step import Pending
from schemas.config import load_config


def test_without_a_gpu_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main(["--out", str(tmp_path)]) == 0
    page = (tmp_path / "gpu.md").read_text()
    assert "**Not run**: there was no GPU" in page
    assert all(f"* {name}: **not run**" in page for name in MEASUREMENTS)
    assert "`lst gpu-check` measures them" in page, "what this command leaves out is said"


def test_the_pipelines_part_has_its_share_and_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun after the tests, within its share of the time whatever came before; the other figures have what it leaves."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "tested", lambda until: iter([{"name": "a", "status": "passed", "seconds": 1.5}]))
    begun, calls = time.monotonic(), []

    def supervised(command: list[str], record: Path, each: float, until: float) -> Iterator[dict[str, Any]]:
        calls.append((command[0], command[-1], until - begun))
        yield {"name": command[-1], "status": "not run", "why": "no weights"}

    monkeypatch.setattr(gpu_check, "supervised", supervised)
    pipeline = gpu_check.Pipeline(command=["work"], names=["HuBERT", "Whisper"])
    options = gpu_check.make_parser("").parse_args(["--out", str(tmp_path), "--seconds", "100"])
    assert gpu_check.check(options, pipeline) == 0
    (_, _, first), (command, last, share), (_, _, rest) = calls
    assert (command, last) == ("work", "Whisper")
    assert share == pytest.approx(15, abs=3)
    assert first == pytest.approx(100, abs=3)
    assert rest == pytest.approx(100, abs=3)
    assert "| HuBERT | **not run**: out of time |" in (tmp_path / "gpu.md").read_text()


def test_a_measurement_that_raises_is_a_result() -> None:
    def broken() -> dict[str, float]:
        raise RuntimeError("no such kernel")

    result = attempt("name", broken)
    assert (result["status"], result["why"]) == ("failed", "RuntimeError: no such kernel")


def test_the_page_holds_what_there_is_when_the_card_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measurement fails here, for want of a card: each is said, and none is lost."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "tested", lambda until: iter([{"name": "a", "status": "passed", "seconds": 1.5}]))

    def supervised(command: list[str], record: Path, **_: float) -> Iterator[dict[str, str]]:
        for name in command[3:5]:
            yield {"name": name, "status": "failed", "why": "no card"}

    monkeypatch.setattr(gpu_check, "supervised", supervised)
    assert gpu_check.main(["--out", str(tmp_path)]) == 1
    page = (tmp_path / "gpu.md").read_text()
    assert "Not run**: there" not in page
    assert "**failed**: no card" in page
    assert "**not run**: out of time" in page
    assert "| a | passed  | 1.5 |" in page


@pytest.mark.parametrize(
    "name, tflops",
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GeForce GTX 970", None),
    ],
)
def test_published_peaks_are_found_by_name(name: str, tflops: float | None) -> None:
    peak = peak_of(name)
    assert (None if peak is None else peak / 1e12) == (None if tflops is None else pytest.approx(tflops))


@pytest.mark.parametrize("name", ["420m", "1b", "7b"])
def test_planned_memory_holds_what_training_must_hold(name: str) -> None:
    """Weights, gradients and two moments are 16 bytes a parameter; ranks share them; recomputation drops activations."""
    config = load_config(ModelConfig, f"configs/model/{name}.yaml")

    def parts(shards: int = 1, recompute: bool = False, muon: bool = False) -> dict[str, float]:
        return memory_by_part(
            config,
            MemoryPlan(
                elements=16384,
                latents=13312,
                bf16=True,
                recompute=recompute,
                shards=shards,
                muon=muon,
                keeps_gathered=False,
            ),
        )

    whole = parts()
    fixed = sum(whole[part] for part in ("weights", "gradients", "optimiser"))
    assert fixed == 16 * count_parameters(config)
    assert sum(parts(shards=8)[part] for part in ("weights", "gradients", "optimiser")) == pytest.approx(fixed / 8)
    assert parts(recompute=True)["activations"] < whole["activations"] / 5
    assert parts(muon=True)["optimiser"] < whole["optimiser"] * 0.7


def test_made_up_batches_fill_both_budgets() -> None:
    vocabulary = load_config(ModelConfig, "configs/model/1b.yaml").vocabulary
    assert vocabulary is not None
    batch = synthetic_batch(vocabulary, 4096, 3328).check()
    assert int((batch.doc_id_N >= 0).sum()) > 0.95 * 4096
    assert int(batch.latent_id_N.max()) > 0.93 * 3328


def test_a_steps_numbers_are_described_once() -> None:
    calls: list[list[float]] = []

    def describe(numbers: list[float]) -> dict[str, float]:
        calls.append(numbers)
        return {"loss": numbers[0]}

    pending = Pending(torch.tensor([2.5, 1.0]), describe)
    assert pending.ready
    assert pending.row() == pending.row() == {"loss": 2.5}
    assert len(calls) == 1
