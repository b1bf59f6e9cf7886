"""A run on an object store: the same losses to the bit, whole checkpoints whoever is killed when, used from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model.training.checkpoint import load, read_facts, retain, save
from model.training.config import CheckpointConfig
from model.training.distributed import Ranks
from model.training.storage.place import RunPlace
from model.training.storage.stores import CheckpointError, RemoteCheckpoints, candidates
from schemas.errors import CredentialsError, ExitCode, StorageError
from schemas.storage import retry
from schemas.storage.files import Files
from tests.model.next_task import write_next_task
from tests.model.training.training_runs import (
    losses,
    run,
    run_document,
    started,
    trajectory,
    wait_until,
    write_data,
    write_run,
)
from tests.s3_server import Server

ALONE = Ranks(0, 1, torch.device("cpu"))
pytest.importorskip("s3fs")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LST_CACHE", str(tmp_path / "cache"))


def tensors(value: float = 0.0) -> dict[str, torch.Tensor]:
    return {"model.a": torch.full((40, 30), value), "optimiser.a/step": torch.tensor(value)}


def store_at(url: str) -> RemoteCheckpoints:
    return RemoteCheckpoints(RunPlace(url))


def value_of(store: RemoteCheckpoints, name: str) -> float:
    path, found = store.fetch(name), tensors()
    load(path, found, ALONE)
    store.release(path)
    return float(found["optimiser.a/step"])


def test_an_expired_token_is_no_reason_to_go_back_to_an_older_checkpoint(calm: Server) -> None:
    """Nothing was read, so nothing is damaged: the run ends with that sentence and not with the updates of an hour ago."""
    store = store_at("s3://bucket/token")
    save(store, 1, tensors(1.0), {"step": 1}, ALONE)
    for kind in ("checkpoint.json", ".safetensors"):
        calm.fail({"method": "GET", "contains": kind, "status": 400, "code": "ExpiredToken"})
        with pytest.raises(CredentialsError, match="have expired"):
            store.fetch("step-00000001")


def test_checkpoints_are_published_by_their_last_object(calm: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is cut off on the way, the one before is the latest; retention leaves nothing half-written."""
    store = store_at("s3://bucket/published")
    assert save(store, 1, tensors(1.0), {"step": 1}, ALONE) == "step-00000001"
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)
    for last in ("shard-", "checkpoint.json"):
        calm.fail({"method": "PUT", "contains": f"step-00000002/{last}", "status": 503, "code": "SlowDown"})
        with pytest.raises(CheckpointError, match=r"cannot write .* s3://bucket/published.*step-00000002") as told:
            save(store, 2, tensors(2.0), {"step": 2}, ALONE)
        assert told.value.code == ExitCode.TRY_AGAIN
        assert store.names() == ["step-00000001"]
    calm.fail({"method": "PUT", "contains": "/latest", "status": 503, "code": "SlowDown"})
    with pytest.raises(CheckpointError):
        save(store, 2, tensors(2.0), {"step": 2}, ALONE)
    calm.fail()
    assert (store.latest(), store.names()) == ("step-00000001", ["step-00000001", "step-00000002"])
    save(store, 2, tensors(2.5), {"step": 2}, ALONE)  # over what lies there
    assert candidates(store) == ["step-00000002", "step-00000001"]
    assert [value_of(store, name) for name in candidates(store)] == [2.5, 1.0]
    store.files.write_bytes("checkpoints/step-00000003/shard-1.safetensors", b"half")
    retain(store, CheckpointConfig(keep=1))
    assert store.names() == ["step-00000002"]
    assert {name.split("/")[0] for name in store.files.stamps("checkpoints")} == {"latest", "step-00000002"}
    assert not list(store.place.folder.rglob("*.safetensors")), "nothing is left on this machine"


def test_a_damaged_checkpoint_is_told_from_a_storage_that_is_away(
    calm: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at("s3://bucket/damaged")
    save(store, 1, tensors(1.0), {"step": 1}, ALONE)
    (shard,) = (name for name in store.files.stamps("checkpoints") if name.endswith(".safetensors"))
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)
    calm.fail({"method": "GET", "contains": shard, "status": 500, "code": "InternalError"})
    with pytest.raises(StorageError, match="shard-00001"):
        store.fetch("step-00000001")
    calm.fail()
    assert read_facts(store.fetch("step-00000001"))["step"] == 1
    store.files.remove(f"checkpoints/{shard}")
    store.release(store.place.folder / "checkpoints" / "step-00000001")
    with pytest.raises(CheckpointError, match="s3://bucket/damaged/checkpoints/step-00000001 is damaged"):
        store.fetch("step-00000001")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, server: Server) -> str:
    """The data of a run, at a URL."""
    import s3fs

    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    s3fs.S3FileSystem().put(f"{folder}/", "bucket/data/", recursive=True)
    return str(folder)


def documents(data: str, tmp_path: Path, name: str, world: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same run twice: local, and from s3:// to s3://."""
    local = run_document(Path(data), tmp_path / "local")
    local["validation"] = {"every_steps": 8, "batches": 2}
    remote = json.loads(json.dumps(local))
    remote["output_dir"] = f"s3://bucket/{name}"
    for source in remote["data"]["sources"]:
        source["data"] = source["data"].replace(data, "s3://bucket/data")
    remote["data"] |= {"cache_dir": str(tmp_path / "shards"), "workers": 1}
    remote["checkpoint"]["beside"] = True
    return local, remote


def test_a_run_from_s3_to_s3_killed_and_resumed_elsewhere(
    data: str, calm: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it writes, the newest damaged, going on with an empty cache: losses bitwise those of a local run."""
    from model.train import main

    local, remote = documents(data, tmp_path, "killed")
    assert main([str(write_run(local, tmp_path / "local.yaml"))]) == 0
    config, files = write_run(remote, tmp_path / "remote.yaml"), Files("s3://bucket/killed")
    with started(config) as ranks:
        assert wait_until(lambda: len(candidates(store_at("s3://bucket/killed"))) >= 2)
        ranks.kill()
    newest = candidates(store_at("s3://bucket/killed"))[0]
    assert int(newest.removeprefix("step-")) < 20, "it was killed before its end"
    (shard,) = (n for n in files.stamps(f"checkpoints/{newest}") if n.endswith(".safetensors"))
    content = bytearray(files.read_bytes(f"checkpoints/{newest}/{shard}"))
    content[-1] ^= 4
    files.write_bytes(f"checkpoints/{newest}/{shard}", bytes(content))
    monkeypatch.setenv("LST_CACHE", str(tmp_path / "elsewhere"))
    assert main(["s3://bucket/killed"]) == 0
    files.get_file("metrics.jsonl", tmp_path / "got" / "metrics.jsonl")
    assert trajectory(tmp_path / "got") == trajectory(tmp_path / "local")
    assert store_at("s3://bucket/killed").latest() == "step-00000020"


def test_shards_that_cannot_be_read_end_a_run_that_goes_on(
    data: str, calm: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After minutes: a sentence, the exit code of a requeue, and a checkpoint of the steps that were done."""
    from model.train import main

    _, remote = documents(data, tmp_path, "away")
    config = str(write_run(remote, tmp_path / "remote.yaml"))
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.0)
    calm.fail({"method": "GET", "contains": "/data/speech/shard-", "status": 503, "code": "SlowDown"})
    assert main([config]) == ExitCode.TRY_AGAIN
    assert "/data/speech/shard-" in (said := capsys.readouterr().err)
    assert "run the same command again" in said
    assert "Traceback" not in said
    calm.fail()
    assert main([config, "budget.steps=2"]) == 0


def test_two_ranks_write_their_parts_from_machines_of_their_own(data: str, calm: Server, tmp_path: Path) -> None:
    local, remote = documents(data, tmp_path, "ranks")
    from model.train import main

    for document in (local, remote):
        document["budget"]["steps"] = 4
    assert main([str(write_run(local, tmp_path / "local.yaml"))]) == 0
    run(write_run(remote, tmp_path / "remote.yaml"), 2)
    files = Files("s3://bucket/ranks")
    files.get_file("metrics.jsonl", tmp_path / "got" / "metrics.jsonl")
    for (step, *ours), (same, *theirs) in zip(losses(tmp_path / "got"), losses(tmp_path / "local"), strict=True):
        assert (step, ours) == (same, pytest.approx(theirs, rel=1e-5))
    parts = [name for name in files.stamps("checkpoints/step-00000004") if name.endswith(".safetensors")]
    assert len(parts) == 2


def said_by(place: str, folder: Path) -> tuple[Any, Any]:
    """What a run at this place writes of its own accord, and how it scores a task, by the commands."""
    from model.generate import main as generate
    from model.score import main as score

    options = ["--checkpoint", place, "--json"]
    draw = ["--prompt", "to be or", "--seed", "3", "--max-units", "20", "--max-tokens", "20"]
    assert generate([*draw, *options, str(folder / "said.json")]) == 0
    assert score([str(folder / "task.jsonl"), "--directions", "S->S", *options, str(folder / "scores.json")]) == 0
    said, scores = (json.loads((folder / name).read_text()) for name in ("said.json", "scores.json"))
    return said["rows"], scores["items"]


def test_a_run_moved_to_s3_is_used_from_there(data: str, calm: Server, tmp_path: Path) -> None:
    """Exported from there it gives the logits of the local export; changed there, it is copied again."""
    import boto3
    import s3fs

    from model.export import main as export
    from model.inference.trained import load_trained
    from model.train import main

    local, _ = documents(data, tmp_path, "moved")
    local["budget"]["steps"] = 2
    config = str(write_run(local, tmp_path / "local.yaml"))
    assert main([config]) == 0
    s3fs.S3FileSystem().put(f"{tmp_path / 'local'}/", "bucket/moved/", recursive=True)
    for place in (str(tmp_path / "local"), "s3://bucket/moved"):
        assert export([place, "--out", str(tmp_path / Path(place).name / "export")]) == 0
    assert (tmp_path / "moved" / "export" / "model.safetensors").read_bytes() == (
        tmp_path / "local" / "export" / "model.safetensors"
    ).read_bytes()
    write_next_task(Path(data) / "speech" / "index.json", tmp_path / "task.jsonl")
    answers = [said_by(place, tmp_path) for place in (str(tmp_path / "local"), "s3://bucket/moved")]
    assert answers[0] == answers[1]
    assert main([config, "budget.steps=4"]) == 0
    s3fs.S3FileSystem().put(f"{tmp_path / 'local'}/", "bucket/moved/", recursive=True)
    assert load_trained("s3://bucket/moved").step == 4
    Files("s3://bucket/moved").write_bytes("checkpoints/latest", b"step-00000002\n")
    assert load_trained("s3://bucket/moved").step == 2
    for mark in ("", "checkpoints/", "ray-train/"):  # as consoles and Ray leave them where there are folders
        boto3.client("s3", endpoint_url=calm.url).put_object(Bucket="bucket", Key=f"moved/{mark}", Body=b"")
    Files("s3://bucket/moved").write_bytes("ray-train/state.json", b"Ray's")
    assert main(["s3://bucket/moved", "budget.steps=6"]) == 0
    assert load_trained("s3://bucket/moved").step == 6
    assert "" not in Files("s3://bucket/moved").names("checkpoints")


def test_losses_of_a_run_are_drawn_from_its_url(
    data: str, calm: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from model.plots import main as plots

    for name in ("one", "two"):
        Files(f"s3://bucket/plots/{name}").write_bytes(
            "metrics.jsonl", b'{"step": 1, "loss_text": 2.0}\n{"step": 2, "los'
        )
    out = tmp_path / "losses.png"
    assert plots(["s3://bucket/plots/one/", "s3://bucket/plots/two/metrics.jsonl", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert plots(["s3://bucket/plots/three", "--out", str(out)]) == 2
    assert "s3://bucket/plots/three/metrics.jsonl does not exist" in capsys.readouterr().err
