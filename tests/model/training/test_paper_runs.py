"""The paper's runs as configurations: each parses, and a step is what the paper says."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.cost.memory import MemoryPlan, memory_by_part
from model.cost.presets import plain_like
from model.network.config import ModelConfig
from model.training.config import load_train_config
from schemas.config import load_config

RUNS = ["configs/train/1b.yaml", *sorted(map(str, Path("configs/train/paper").glob("*.yaml")))]
STEPS = {
    "1b": 200_000,
    "1b-500k": 500_000,
    "420m": 24_033,
    "7b": 25_000,
    "1b-200k-utterances": 200_000,
    "1b-200k": 200_000,
}


def test_all_of_the_papers_runs_are_there() -> None:
    assert len(RUNS) == 9


@pytest.mark.parametrize("path", RUNS)
def test_a_step_is_as_many_patches_as_the_papers(path: str) -> None:
    """524,288 latents (elements of the baseline), at 7B 4.2 M; the learning rate, decay and clipping of its appendix."""
    config, name = load_train_config(path, []), Path(path).stem
    assert isinstance(config.model, ModelConfig)
    assert config.budget.steps == STEPS[name.removeprefix("plain-")]
    assert config.global_microbatches * config.packing.latents == (4_194_304 if "7b" in name else 524_288)
    assert config.optimiser.kind == "adamw"
    assert (config.optimiser.lr, config.optimiser.weight_decay, config.optimiser.betas) == (4e-4, 0.1, (0.9, 0.95))
    assert (config.precision, config.compile, config.checkpoint.beside) == ("bf16", True, True)
    if config.model.kind == "lst":
        assert config.curriculum_steps == config.budget.steps
        assert config.packing.elements / config.packing.latents == 1.25
    else:
        assert config.packing.elements == config.packing.latents


@pytest.mark.parametrize("name", ["420m", "1b", "7b"])
def test_plain_presets_are_the_global_part_of_theirs(name: str) -> None:
    lst, plain = (load_config(ModelConfig, f"configs/model/{prefix}{name}.yaml") for prefix in ("", "plain-"))
    assert plain == plain_like(lst)


@pytest.mark.parametrize("name", ["configs/train/1b.yaml", "configs/train/paper/7b.yaml"])
def test_eight_cards_of_80_gb_hold_the_run(name: str) -> None:
    config = load_train_config(name, [])
    assert isinstance(config.model, ModelConfig)
    plan = MemoryPlan(
        elements=config.packing.elements,
        latents=config.packing.latents,
        bf16=True,
        recompute=config.recompute is True,
        shards=8,
        muon=False,
        keeps_gathered=False,
        compiled=config.compile,
        accumulates=config.global_microbatches > 8 and config.sharding.reduce == "step",
    )
    assert sum(memory_by_part(config.model, plan).values()) < 70 * 2**30
