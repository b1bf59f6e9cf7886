"""recipes.stories.make writes the same bytes however often it is killed, and nothing when all is there."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from pipeline.networks.registry import FetchError
from recipes.stories.cloze import RUNGS
from recipes.voices import fetch, flite
from schemas.tasks import read_task

ROOT = Path(__file__).resolve().parents[2]
SPOKEN = ["topic", "order", "binding"]


def voice() -> str:
    """A fast voice that this machine has, or can get."""
    if flite.available():
        return "flite-kal16"
    try:
        fetch.espeak()
    except FetchError as error:
        pytest.skip(f"no synthesiser: {error}")
    return "espeak-en-us"


def write_config(folder: Path, voices: list[str]) -> Path:
    document = {
        "output": str(folder / "out"),
        "seed": 3,
        "mix": dict.fromkeys(RUNGS, 1),
        "text": {"stories": 50},
        "speech": {"stories": 3, "voices": voices or ["flite-slt"]},
        "tasks": [{"name": "quiet", "split": "dev", "pairs": 2}],
    }
    if voices:
        document["tasks"].append({"name": "said", "split": "test", "pairs": 1, "rungs": SPOKEN, "voices": voices})
    path = folder / "stories.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "recipes.stories.make", "--config", str(config), *arguments]


def run(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(config, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=120)


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_killed_run_goes_on_to_the_same_bytes_and_a_second_one_does_nothing(tmp_path: Path) -> None:
    said = voice()
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    result = run(write_config(whole, [said]))
    assert result.returncode == 0, result.stderr

    config = write_config(killed, [said])
    process = subprocess.Popen(command(config, "--processes", "1"), cwd=ROOT, stderr=subprocess.DEVNULL)
    audio = killed / "out" / "tasks" / "audio" / "said"
    while not any(audio.glob("*/*")) and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "out" / "tasks" / "said.jsonl").exists(), "the kill came too late to show anything"
    assert run(config).returncode == 0
    first = tree(killed / "out")
    assert first == tree(whole / "out")

    times = {path: path.stat().st_mtime_ns for path in (whole / "out").rglob("*")}
    again = run(whole / "stories.yaml")
    assert again.stdout.count("is there") == 4
    assert times == {path: path.stat().st_mtime_ns for path in (whole / "out").rglob("*")}

    check_contents(whole / "out")


def check_contents(out: Path) -> None:
    """Stories to read are paragraphs; every recording has its text; every prompt and ending of the spoken task has audio."""
    paragraphs = (out / "text" / "train.txt").read_text(encoding="utf-8").split("\n\n")
    assert len([text for text in paragraphs if text]) == 50
    recordings = sorted((out / "speech").rglob("*.flac"))
    assert len(recordings) == 3
    for path in recordings:
        samples, rate = soundfile.read(path, dtype="int16")
        spoken = path.with_suffix(".txt").read_text(encoding="utf-8").split()
        assert rate == 16_000
        assert 1.5 < len(spoken) / (len(samples) / rate) < 4, "words a second"
        assert np.abs(samples).max() > 3000
    task = read_task(out / "tasks" / "said.jsonl")
    assert [item.group for item in task.items] == [rung for rung in SPOKEN for _ in range(2)]
    assert [item.answer for item in task.items] == [0, 1] * len(SPOKEN)
    for item in task.items:
        assert all(task.audio_path(segment).exists() for segment in item.segments)


def test_text_only_needs_no_voice_and_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    config = write_config(tmp_path, [])
    planned = run(config, "--text-only", "--dry-run")
    assert "words" in planned.stdout
    assert not (tmp_path / "out").exists()
    assert run(config, "--text-only").returncode == 0
    assert len(read_task(tmp_path / "out" / "tasks" / "quiet.jsonl").items) == 4 * len(RUNGS)
    result = run(config, "--text-only", "seed=4")
    assert result.returncode == 2
    assert "made with another seed" in result.stderr


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("mix.topik=1", "'topik' is no rung"),
        ("speech.voices=[flite-bdl]", "is no voice"),
        ("text.story=3", "did you mean 'stories'"),
        ("tasks=[{name: a, split: dev, pairs: 1, rungs: []}]", "rungs"),
        ("speech.voices=[]", "voices"),
    ],
)
def test_mistakes_end_with_one_sentence(tmp_path: Path, override: str, complaint: str) -> None:
    result = run(write_config(tmp_path, []), "--dry-run", override)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
