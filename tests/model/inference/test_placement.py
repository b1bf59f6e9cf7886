"""A trained model where and in the type that a command line asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.data.patching import StaticConfig
from model.inference.placement import checked_device, open_trained
from model.inference.session import Session
from model.inference.trained import run_folder
from model.network.vocabulary import BOS
from model.train import main
from schemas.errors import ConfigError
from tests.model.training.training_runs import run_document, write_data, write_run


@pytest.mark.parametrize("name, message", [("gpu", "is no device of torch"), ("cuda:99", "this machine has")])
def test_devices_that_are_not_there_are_one_sentence(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked_device(name)


def test_bf16_gives_what_fp32_gives_to_its_precision(tmp_path: Path) -> None:
    """Prompt and steps alike, on the CPU."""
    write_data(tmp_path / "data")
    config = write_run(run_document(tmp_path / "data", tmp_path / "run"), tmp_path / "run.yaml")
    assert main([str(config), "budget.steps=2"]) == 0
    logits = []
    for dtype in ("fp32", "bf16"):
        trained = open_trained(tmp_path / "run", "cpu", dtype)
        units = trained.module.vocabulary.unit_offset
        session = Session(trained.module, StaticConfig(policy="static", size=4), 1)
        prompt = session.prefill([[BOS, 4, *range(units, units + 9)]])
        logits.append(torch.cat([prompt, session.feed([units + 3])]).float())
    torch.testing.assert_close(logits[1], logits[0], rtol=0.1, atol=0.1)


def test_the_run_of_a_checkpoint_is_found_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text("{}")
    monkeypatch.chdir(checkpoint)
    assert run_folder(".") == tmp_path / "run"
    monkeypatch.chdir(checkpoint.parent)
    assert run_folder(checkpoint.name) == tmp_path / "run"
    assert run_folder("..") == Path("..")
