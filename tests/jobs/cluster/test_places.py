"""Relative paths of a spec, for workers that run in another folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cluster.places import resolve, resolve_model, resolve_spec
from schemas.config import load_config
from schemas.spec import PipelineSpec

ROOT = Path(__file__).resolve().parents[3]


def test_every_path_of_the_demo_is_absolute(tmp_path: Path) -> None:
    """The Whisper whose encoder the letter head reads too: in Ray's copy of the project there are no models."""
    for folder in ("models/whisper-tiny.en", "assets/whisper-tiny-letters", "assets/tiny-hubert"):
        (tmp_path / folder).mkdir(parents=True)
    spec = resolve_spec(load_config(PipelineSpec, ROOT / "configs/demo.yaml"), tmp_path)
    stages = spec.stages.model_dump()
    assert stages["words"]["encoder"] == stages["transcripts"]["model"] == str(tmp_path / "models/whisper-tiny.en")
    assert stages["words"]["model"] == str(tmp_path / "assets/whisper-tiny-letters")
    assert stages["units"]["encoder"]["model"] == str(tmp_path / "assets/tiny-hubert")
    assert (spec.source.uri, spec.output) == (str(tmp_path / "data/demo"), str(tmp_path / "runs/demo"))


def test_what_is_no_folder_is_a_name(tmp_path: Path) -> None:
    spec = resolve_spec(load_config(PipelineSpec, ROOT / "configs/mhubert-25hz-km500.yaml"), tmp_path)
    stages = spec.stages.model_dump()
    assert stages["words"]["model"] == "MMS_FA"
    assert stages["words"]["encoder"] is None
    assert stages["units"]["encoder"]["model"] == "slprl/mhubert-base-25hz"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell sees those of a file: an output `~/runs` was a folder called ~ where the job was started."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolve("~/runs", tmp_path) == str(tmp_path / "home/runs")
    assert resolve_model("~/whisper", tmp_path) == str(tmp_path / "home/whisper")
    assert resolve("~odd/runs", tmp_path) == str(tmp_path / "~odd/runs")
