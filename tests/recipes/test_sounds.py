"""The README's sounds, of shards that lie anywhere; what the model says is put in its place."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest

from jobs.hearing.listening import DemoPrompt, Said
from model.data.sources import DataConfig
from recipes.pictures import sounds
from tests.synthetic_shards import write_speech_shards


@pytest.fixture
def spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that keeps copies of shards in `cache`, and says a second after any prompt; returns the folder of the sounds."""
    sources = [{"kind": "speech", "data": "unread/index.json", "weight": 1.0}]
    raw = {"sources": sources, "tokenizer": {"path": "unread"}, "cache_dir": str(tmp_path / "cache")}
    config = SimpleNamespace(data=DataConfig.model_validate(raw))

    def listen(speaker: Any, prompts: list[DemoPrompt], **limits: Any) -> list[list[Said]]:
        units, sound = np.zeros(25, np.uint16), np.zeros(16_000, np.float32)
        said = Said(
            label="a", to_speech=True, text="", units=units, prompt_frames=0, audio=sound, patches=(), ended=True
        )
        return [[said] for _ in prompts]

    monkeypatch.setattr(
        sounds, "open_speaker", lambda given, run: SimpleNamespace(trained=SimpleNamespace(config=config, units=None))
    )
    monkeypatch.setattr(sounds, "listen", listen)
    monkeypatch.setattr(sounds, "ASSETS", tmp_path)
    return tmp_path


def test_the_prompt_may_be_of_remote_shards(spoken: Path) -> None:
    """Without a place for copies they were refused, with the advice to set a field of the run's configuration."""
    store = fsspec.filesystem("memory")
    for path in write_speech_shards(spoken / "speech", [3], num_units=20, audio=True).parent.iterdir():
        store.pipe(f"/sounds/{path.name}", path.read_bytes())
    assert sounds.main(["--shards", "memory://sounds/index.json", "--prompt", "2"]) == 0
    assert (spoken / "recorded.mp3").stat().st_size > 1000
    assert list((spoken / "cache").glob("*.tar"))


def test_a_prompt_that_is_not_there_or_has_no_sound_is_a_sentence(
    spoken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = str(write_speech_shards(spoken / "silent", [3], num_units=20))
    assert sounds.main(["--shards", index, "--prompt", "3"]) == 2
    assert "has 3 samples" in capsys.readouterr().err
    assert sounds.main(["--shards", index, "--prompt", "0"]) == 2
    assert "carry no audio: make them with stages.shards.audio" in capsys.readouterr().err
