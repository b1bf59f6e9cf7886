"""The Ray Train launcher and the tokenizer job, from their command lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.train_lst import absolute
from model.data.text_tokenizer import load_tokenizer
from model.monitor.metrics import read_rows
from model.training.config import load_train_config
from tests.model.training.training_runs import run, run_document, write_data, write_run
from tests.s3_server import Server


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=400, check=False)


LEARNED = "{policy: learned, boundaries: runs/b.npz}"
ALIGNED = "{policy: aligned, silence: separate, max_size: 64}"
MIXED = f"{{policy: mixed, probability: 0.5, aligned: {ALIGNED}, otherwise: {LEARNED}}}"


@pytest.mark.parametrize("patches", [LEARNED, MIXED])
def test_workers_in_other_folders_read_the_files_that_a_configuration_names(tmp_path: Path, patches: str) -> None:
    """Also first weights, a unit BPE and learned boundaries; a hub name stays one."""
    (tmp_path / "runs" / "first").mkdir(parents=True)
    parts = ["init_from=runs/first", "data.unit_bpe=runs/bpe.json", "data.cache_dir=cache", f"patches={patches}"]
    voice = "evaluation={every_steps: 1, tasks: [t.jsonl], voice: {vocoder: owner/vocoder, voice_shards: v.json}}"
    given = load_train_config("configs/train/tiny.yaml", [*parts, voice])
    document = absolute(given, tmp_path).model_dump()
    data, learned = document["data"], document["patches"].get("otherwise", document["patches"])
    paths = [
        document["init_from"],
        data["unit_bpe"],
        data["cache_dir"],
        learned["boundaries"],
        data["tokenizer"]["path"],
    ]
    wanted = ["runs/first", "runs/bpe.json", "cache", "runs/b.npz", "runs/train-tiny/tokenizer.json"]
    assert paths == [str(tmp_path / path) for path in wanted]
    assert document["evaluation"]["tasks"] == [str(tmp_path / "t.jsonl")]
    assert document["evaluation"]["voice"]["voice_shards"] == str(tmp_path / "v.json")
    assert document["evaluation"]["voice"]["vocoder"] == "owner/vocoder"
    tokenizer = given.data.tokenizer.model_copy(update={"path": "owner/model", "train_size": None})
    fetched = given.with_updates(
        init_from="s3://b/run", data=given.data.model_copy(update={"tokenizer": tokenizer}).model_dump()
    )
    document = absolute(fetched, tmp_path).model_dump()
    assert (document["init_from"], document["data"]["tokenizer"]["path"]) == ("s3://b/run", "owner/model")


@pytest.mark.slow
def test_ray_train_gives_the_run_that_torchrun_gives(tmp_path: Path) -> None:
    """Two workers of an embedded Ray: the losses of one plain process, to 1e-6."""
    write_data(tmp_path / "data")
    plain, ray = tmp_path / "plain", tmp_path / "ray"
    run(write_run(run_document(tmp_path / "data", plain), tmp_path / "plain.yaml"), overrides=["budget.steps=4"])
    config = write_run(run_document(tmp_path / "data", ray), tmp_path / "ray.yaml")
    done = command("jobs/train_lst.py", "--workers", "2", str(config), "budget.steps=4")
    assert done.returncode == 0, done.stderr
    rows, wanted = read_rows(ray / "metrics.jsonl"), read_rows(plain / "metrics.jsonl")
    assert {row["world"] for row in rows} == {2}
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in wanted], abs=1e-6)


@pytest.mark.slow
def test_ray_train_reads_shards_from_a_bucket_and_writes_its_run_there(tmp_path: Path, calm: Server) -> None:
    """Index, checkpoints and Ray's own state at URLs: the losses of one plain process; submitted again, it goes on."""
    import s3fs

    from model.monitor.metrics import parse_rows
    from schemas.storage.files import Files

    write_data(tmp_path / "data")
    s3fs.S3FileSystem().put(f"{tmp_path / 'data'}/", "bucket/rays/", recursive=True)
    local = run_document(tmp_path / "data", tmp_path / "plain")
    for steps in (2, 4):  # as below, since the budget shapes the schedule
        run(write_run(local, tmp_path / "plain.yaml"), overrides=[f"budget.steps={steps}"])
    remote = json.loads(json.dumps(local).replace(str(tmp_path / "data"), "s3://bucket/rays"))
    remote["data"]["tokenizer"] = local["data"]["tokenizer"]
    remote |= {"output_dir": "s3://bucket/ray-run"}
    remote["data"]["cache_dir"] = str(tmp_path / "shards")
    config = str(write_run(remote, tmp_path / "ray.yaml"))
    for steps in (2, 4):
        done = command("jobs/train_lst.py", "--workers", "1", config, f"budget.steps={steps}")
        assert done.returncode == 0, done.stderr
    rows = parse_rows(Files("s3://bucket/ray-run").read_bytes("metrics.jsonl").decode())
    wanted = read_rows(tmp_path / "plain" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in wanted], abs=1e-6)
    assert not (tmp_path / "s3:").exists()


def test_a_tokenizer_is_trained_on_shards_and_text(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    (tmp_path / "a.txt").write_text("to be or not to be, that is the question\n" * 20)
    out = tmp_path / "tokenizer.json"
    index = str(tmp_path / "data" / "speech" / "index.json")
    done = command("jobs/train_tokenizer.py", "--size", "300", "--out", str(out), index, str(tmp_path / "a.txt"))
    assert done.returncode == 0, done.stderr
    assert load_tokenizer(out).size == 300
    assert "300 tokens" in done.stdout
    done = command("jobs/train_tokenizer.py", "--size", "300", "--out", str(out), str(tmp_path / "none.txt"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot read the text file")
