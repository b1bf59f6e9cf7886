"""The GPU's measurements as far as a processor can take them: in small, without compiled blocks, a card made of stubs."""

from __future__ import annotations

import types
from functools import partial

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from model.gpu import speed
from model.monitor.metrics import gemm_flops
from model.network.batch import Batch
from model.network.config import ModelConfig
from model.network.layers.attention import attend
from model.network.vocabulary import Vocabulary
from schemas.config import load_config


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """This processor in the place of the card."""
    for name in ("reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1 << 20)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(total_memory=1 << 36))
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: batch)
    monkeypatch.setattr(speed, "CUDA", torch.device("cpu"))
    monkeypatch.setattr(speed, "ELEMENTS", 64)
    monkeypatch.setattr(speed, "LATENTS", 56)
    monkeypatch.setattr(speed, "compile_blocks", lambda module: None)
    monkeypatch.setattr(speed, "attend", lambda q, k, v, intervals, _backend: attend(q, k, v, intervals, "dense"))
    monkeypatch.setattr(speed, "gemm_flops", partial(gemm_flops, size=64, seconds=0.01))
    monkeypatch.setattr(speed, "profile", partial(profile, activities=[ProfilerActivity.CPU]))


def tiny(_name: str) -> ModelConfig:
    return load_config(ModelConfig, "configs/model/tiny.yaml").with_vocabulary(Vocabulary(num_text=60, num_units=40))


KINDS = (
    "1b, bf16, compiled, four micro-batches a step",
    "1b, bf16, not compiled, blocks recomputed",
    "plain baseline of 1b, bf16, compiled",
    "attention of 1b, ms",
    "generation, 1b, one row",
)
"""One measurement of each kind."""


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_measurement_comes_to_its_figures(
    name: str, no_card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "preset", tiny)
    result = speed.attempt(name, speed.MEASUREMENTS[name])
    assert result["status"] == "passed", result.get("why")
    numbers = [value for value in result.values() if isinstance(value, int | float)]
    assert len(numbers) >= 3
    assert all(number >= 0 for number in numbers)
