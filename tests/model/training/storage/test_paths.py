"""The files that a configuration names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.training.config import load_train_config
from schemas.models.hub import folder_of

FIELDS = (
    "output_dir=~/run", "model=~/model.yaml", "init_from=~/first", "data.tokenizer.path=~/t.json", "data.unit_bpe=~/bpe.json",
    "data.cache_dir=~/cache", "patches={policy: learned, boundaries: ~/b.npz}",
    "evaluation={every_steps: 1, tasks: [~/t.jsonl], voice: {vocoder: ~/vocoder, voice_shards: ~/v.json, audio_root: ~/audio}}",
)  # fmt: skip


def test_a_tilde_in_any_path_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell sees those of a file: a run with `output_dir: ~/run` was written into a folder called ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny = load_train_config("configs/train/tiny.yaml", [])
    (tmp_path / "model.yaml").write_text(tiny.network.model_dump_json())
    sources = [{**source.model_dump(), "data": f"~/{n}.json"} for n, source in enumerate(tiny.data.sources)]
    config = load_train_config("configs/train/tiny.yaml", [*FIELDS, f"data.sources={json.dumps(sources)}"])
    document = config.model_dump_json(exclude={"model"})
    assert "~" not in document
    assert document.count(f'"{tmp_path}/') == 10 + len(sources)
    assert config.network == tiny.network


def test_a_name_that_no_user_has_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~odd").mkdir()
    assert folder_of("~odd") == Path("~odd")
