"""A run is one folder, and so is what is exported of it: moved, on object storage, on a hub, or without this project's code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
import torch
import yaml
from huggingface_hub.utils import filter_repo_objects

from model.data.patching import OnlinePatcher
from model.exchange.remote import push
from model.export import export_run
from model.export import main as export
from model.inference.trained import Trained, load_trained
from model.network.vocabulary import BOS, EOS, SPEECH_MARK, TEXT_MARK
from model.train import main as train
from model.training.config import load_train_config
from model.training.loop import train as run_training
from model.transfer import finetune_config
from schemas.errors import ConfigError, DataError
from tests.fake_hub import fake_hub
from tests.model.training.training_runs import parsed, run_document, write_data

SCRIPT = """
import json, sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
ids = torch.tensor(json.loads(sys.argv[2]))
with torch.inference_mode():
    output = model(ids, labels=ids)
ours = sorted(name for name in sys.modules if name.split(".")[0] in ("model", "schemas", "pipeline", "jobs"))
torch.save({"logits": output.logits, "loss": output.loss, "ours": ours, "dtype": str(model.dtype)}, sys.argv[3])
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a tokenizer beside it, and a run of four steps whose next checkpoint would be its sixth."""
    folder = tmp_path_factory.mktemp("folder")
    write_data(folder / "data")
    document = run_document(folder / "data", folder / "run")
    document["budget"] = {"steps": 4}
    assert run_training(parsed(document, folder / "run.yaml")) == 0
    return folder


@pytest.fixture
def moved(place: Path, tmp_path: Path) -> Path:
    """The run in another folder, where the tokenizer that its configuration names is not to be found."""
    shutil.copytree(place / "run", tmp_path / "moved")
    for path in [tmp_path / "moved" / "config.yaml", *(tmp_path / "moved" / "checkpoints").glob("*/checkpoint.json")]:
        path.write_text(path.read_text().replace(str(place / "data" / "tokenizer.json"), "/gone/tokenizer.json"))
    return tmp_path / "moved"


GENERATE = """
import json, sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
prompts = json.loads(sys.argv[2])
longest = max(map(len, prompts))
batch = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
options = dict(max_new_tokens=24, do_sample=False)
rows = [model.generate(torch.tensor([prompt]), **options)[0].tolist()[len(prompt):] for prompt in prompts]
print(json.dumps([rows, [row[longest:] for row in model.generate(batch, **options).tolist()]]))
"""


def rows(trained: Trained) -> list[list[int]]:
    """Two sequences of both modalities, one shorter and padded."""
    first = trained.module.vocabulary.unit_offset
    units = [first + unit for unit in (3, 3, 7, 9, 9, 9, 12, 1, 0)]
    return [
        [BOS, SPEECH_MARK, *units, TEXT_MARK, 30, 31, EOS],
        [BOS, TEXT_MARK, 40, 41, 42, SPEECH_MARK, *units[:5], 0, 0, 0, 0],
    ]


def ours(trained: Trained, ids: list[list[int]]) -> torch.Tensor:
    """Logits by the model's own cached steps, element by element: another path than the packed batch."""
    from model.inference.patching import make_patching
    from model.inference.session import Session

    policy: Any = make_patching("auto", trained.config.patches).ending
    session = Session(trained.module, policy, len(ids), packed=False)
    assert isinstance(session.patchers[0], OnlinePatcher)
    return torch.stack([session.feed([row[n] for row in ids]) for n in range(len(ids[0]))], dim=1)


def same_model(a: Trained, b: Trained) -> None:
    for name, tensor in a.module.state_dict().items():
        assert torch.equal(tensor, b.module.state_dict()[name]), name
    assert a.composer().tokenizer.card == b.composer().tokenizer.card
    assert (a.step, a.units, a.data) == (b.step, b.units, b.data)


def test_a_moved_run_is_used_with_its_own_tokenizer(place: Path, moved: Path) -> None:
    same_model(load_trained(place / "run"), load_trained(moved))


def test_a_moved_run_goes_on_as_it_would_have_where_it_was(place: Path, moved: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "stayed")
    assert train([str(tmp_path / "stayed"), "budget.steps=6"]) == 0
    assert train([str(moved), "budget.steps=6"]) == 0
    same_model(load_trained(tmp_path / "stayed"), load_trained(moved))
    assert load_trained(moved).step == 6


def test_a_run_and_an_export_on_object_storage_are_used(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LST_CACHE", str(tmp_path / "cache"))
    assert export([str(place / "run"), "--out", str(tmp_path / "export")]) == 0
    files = fsspec.filesystem("memory")
    for name, folder in (("run", place / "run"), ("export", tmp_path / "export")):
        files.put(str(folder), f"/bucket/{name}", recursive=True)
        same_model(load_trained(place / "run"), load_trained(f"memory://bucket/{name}"))
    steps = list((tmp_path / "cache").rglob("checkpoint.json"))
    assert len(steps) == 1, "the newest checkpoint alone is copied"


def test_transformers_generates_what_we_generate(place: Path, tmp_path: Path) -> None:
    """Greedily, alone and in a padded batch, without our code: our cached steps' elements."""
    from model.inference.continuation import Generator
    from model.inference.sampling import Sampling

    trained = load_trained(place / "run")
    export_run(trained, tmp_path / "export", dtype="fp32", shard_bytes=10**9, license="")
    generator = Generator.of(trained)
    prompts = [generator.speech_prompt([3, 3, 7, 9, 9, 9, 12, 1]), [BOS], [BOS, TEXT_MARK, 30, 31, 32]]
    wanted = [
        row.ids[:24]
        for row in generator.generate(prompts, sampling=Sampling(temperature=0), max_units=24, max_tokens=24)
    ]
    (tmp_path / "script.py").write_text(GENERATE)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-I", str(tmp_path / "script.py"), str(tmp_path / "export"), json.dumps(prompts)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    alone, together = json.loads(result.stdout.splitlines()[-1])
    assert len({tuple(row) for row in wanted}) > 1
    for ours, theirs, padded in zip(wanted, alone, together, strict=True):
        assert theirs[: len(ours)] == ours
        assert padded[: len(ours)] == ours


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_exported_weights_give_the_same_logits_without_our_code(dtype: str, place: Path, tmp_path: Path) -> None:
    trained = load_trained(place / "run")
    out = tmp_path / "export"
    export_run(trained, out, dtype=dtype, shard_bytes=20_000, license="apache-2.0")
    assert len(list(out.glob("model-*.safetensors"))) > 1
    ids = rows(trained)
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-I", str(tmp_path / "script.py"), str(out), json.dumps(ids), str(tmp_path / "out.pt")]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    found = torch.load(tmp_path / "out.pt")
    assert found["ours"] == []
    assert found["dtype"] == {"fp32": "torch.float32", "bf16": "torch.bfloat16"}[dtype]
    assert torch.isfinite(found["loss"])
    expected = ours(trained, ids)
    real = torch.tensor(ids) != 0
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype == "fp32" else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(found["logits"].float()[real], expected.float()[real], **near)
    assert not found["logits"][~real].any()


def test_an_export_is_scored_exported_and_started_from_like_its_run(place: Path, tmp_path: Path) -> None:
    trained = load_trained(place / "run")
    export_run(trained, tmp_path / "a", dtype="fp32", shard_bytes=20_000, license="")
    again = load_trained(tmp_path / "a")
    same_model(trained, again)
    export_run(again, tmp_path / "b", dtype="fp32", shard_bytes=10**9, license="")
    same_model(trained, load_trained(tmp_path / "b"))
    document = run_document(place / "data", tmp_path / "next") | {"init_from": str(tmp_path / "a")}
    document["budget"], document["optimiser"] = {"steps": 1}, {"kind": "adamw", "lr": 1e-30}
    document["optimiser"]["weight_decay"] = 0.0
    assert run_training(parsed(document, tmp_path / "next.yaml")) == 0
    for name, tensor in load_trained(tmp_path / "next").module.state_dict().items():
        torch.testing.assert_close(tensor, trained.module.state_dict()[name])


def test_init_from_another_shape_is_a_sentence(place: Path, tmp_path: Path) -> None:
    export_run(load_trained(place / "run"), tmp_path / "a", dtype="fp32", shard_bytes=10**9, license="")
    document = run_document(place / "data", tmp_path / "next") | {"init_from": str(tmp_path / "a")}
    document["model"]["global_transformer"]["num_layers"] = 3
    with pytest.raises(ConfigError, match=r"init_from .*global_transformer\.layers\.2.* no such tensor"):
        run_training(parsed(document, tmp_path / "next.yaml"))


def test_the_card_says_what_the_run_knows(place: Path, tmp_path: Path) -> None:
    export_run(load_trained(place / "run"), tmp_path / "small", dtype="bf16", shard_bytes=10**9, license="mit")
    text = (tmp_path / "small" / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["license"] == "mit"
    for line in (
        "| patches in training | curriculum |",
        "| patches here | policy static, size 4 |",
        "| unit_tokenizer | random |",
        "| steps | 4 |",
    ):
        assert line in text, line


def test_a_folder_goes_to_a_hub_and_comes_back(place: Path, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    with fake_hub(tmp_path / "served") as hub:
        environment = {
            **os.environ,
            **hub.environment(tmp_path / "home"),
            "HF_TOKEN": "hf_test",
            "PYTHONPATH": os.getcwd(),
        }
        command = [sys.executable, "-m", "model.export", str(place / "run"), "--out", str(tmp_path / "out")]
        result = subprocess.run(
            [*command, "--push-to-hub", "me/small"], env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert f"sent it to {hub.url}/me/small" in result.stdout
    same_model(load_trained(place / "run"), load_trained(tmp_path / "served" / "me" / "small"))


def test_a_hub_that_does_not_take_it_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the hub did not take .* as me/small.*hf auth login"):
        push(tmp_path, "me/small", private=True)  # tests/conftest.py keeps the client offline


def test_a_runs_folder_is_its_configuration(place: Path) -> None:
    config = load_train_config(place / "run", ["seed=9"])
    assert (config.output_dir, config.seed) == (str(place / "run"), 9)


def test_a_moved_run_is_planned_and_fine_tuned_with_its_own_tokenizer(
    place: Path, moved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([str(moved), "--dry-run"]) == 0
    assert "text tokens" in capsys.readouterr().out
    assert not Path("/gone").exists(), "another tokenizer is trained where the run's own was"
    index = str(place / "data" / "speech" / "index.json")
    config = finetune_config(str(moved), kind="asr", data=index, steps=5, output_dir="asr", lr=1e-3, seed=1)
    assert config.data.tokenizer.path == str(moved / "tokenizer.json")


def test_a_hub_gets_all_of_an_export_and_nothing_else(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_run(load_trained(place / "run"), tmp_path, dtype="fp32", shard_bytes=100_000, license="")
    written = {path.name for path in tmp_path.iterdir()}
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    for name in ("notes.txt", "checkpoints/step-00000001/shard-1.safetensors", "run.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sent: list[str] = []

    class Hub:
        def create_repo(self, *_: Any, **__: Any) -> None: ...

        def upload_folder(self, folder_path: str, allow_patterns: list[str] | None = None, **_: Any) -> Any:
            files = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
            sent.extend(filter_repo_objects(files, allow_patterns=allow_patterns))
            return SimpleNamespace(commit_url="url")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert push(tmp_path, "me/tiny", private=True) == "url"
    assert set(sent) == written


def test_an_export_into_a_runs_folder_is_refused(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It hid the checkpoints that came later: whoever named the run got the export."""
    (checkpoint, *_) = sorted((moved / "checkpoints").glob("step-*"))
    for out in (moved, checkpoint):
        assert export([str(moved), "--out", str(out)]) == 2
        assert f"{out} holds checkpoints" in (said := capsys.readouterr().err)
        assert f"--out models/{out.name}" in said
        assert not (out / "config.json").exists()
    assert export([str(moved), "--out", str(moved / "export")]) == 0, "a folder of its own within the run hides nothing"


def test_a_dry_run_opens_what_the_run_would_start_from(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every kind of start, what a start is refused for, and nothing copied or written."""
    monkeypatch.setenv("LST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    export_run(load_trained(place / "run"), tmp_path / "export", dtype="fp32", shard_bytes=10**9, license="")
    fsspec.filesystem("memory").put(str(tmp_path / "export"), "/starts/there", recursive=True)

    def planned(source: object, output: object = "next", *changes: str) -> str:
        document = run_document(place / "data", Path(str(output))) | {"init_from": str(source)}
        (tmp_path / "next.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        code, shown = train([str(tmp_path / "next.yaml"), "--dry-run", *changes]), capsys.readouterr()
        return shown.out if code == 0 else f"{code} {shown.err}"

    tokens = "data.tokenizer={path: none.json, train_size: 300}"
    wider = "model.global_transformer.dim=48"
    for start, said in (
        ((place / "run",), f"init_from    the weights of {place}/run/checkpoints/step-00000004"),
        (("export",), "init_from    the exported weights of export"),
        (("memory://starts/there",), "init_from    memory://starts/there is there; it is copied"),
        (("export", "next", tokens), "init_from    export is there; it is compared"),
        (("export", place / "run"), "init_from    not read: there is step-00000004"),
        (("nowhere",), "2 error: init_from nowhere: nowhere has no config.json. It takes a run"),
        (("nowhere", "next", tokens), "2 error: init_from nowhere: nowhere has no config.json"),
        (("memory://starts/nowhere",), "3 error: there is no run and no model at memory://starts/nowhere"),
        ((place / "run", "next", wider), "does not fit this model"),
        (("export", "next", wider), "2 error: init_from export: "),
    ):
        assert said in (shown := planned(*start)), shown
    assert {path.name for path in tmp_path.iterdir()} == {"export", "next.yaml"}
