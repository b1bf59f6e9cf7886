"""Damage to data while a run goes on: a sentence with the file's name and exit code 3, never a silent skip."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from model.monitor.metrics import read_rows
from model.training.checkpoint import latest
from tests.model.training.training_runs import run, run_document, started, write_data, write_run


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-512])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[700] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "damage,message", [(truncate, "it is truncated"), (flip, "is damaged"), (Path.unlink, "is missing, and the index")]
)
def test_damaged_shards_end_the_run_with_their_name(damage, message: str, workers: int, tmp_path: Path) -> None:
    """In the training process and in a loader process alike: one sentence, no traceback."""
    write_data(tmp_path / "data")
    config = write_run(run_document(tmp_path / "data", tmp_path / "run"), tmp_path / "run.yaml")
    run(config, overrides=["budget.steps=1"])  # trains the tokenizer, which reads everything, while all is well
    victim = tmp_path / "data" / "speech" / "shard-00002.tar"
    damage(victim)
    printed = run(config, overrides=[f"data.workers={workers}"], expect=3)
    assert f"{victim} " in printed
    assert message in printed
    assert "Traceback" not in printed
    assert len(read_rows(tmp_path / "run" / "metrics.jsonl")) < 20


def test_a_full_disk_while_checkpointing(tmp_path: Path) -> None:
    """A limit on file sizes fails in the kernel as a full disk does: exit code 3, the last checkpoint whole, and the run goes on
    from it once there is room."""
    write_data(tmp_path / "data")
    document = run_document(tmp_path / "data", tmp_path / "run")
    config = write_run(document, tmp_path / "run.yaml")
    run(config, overrides=["budget.steps=2"])
    before = latest(tmp_path / "run" / "checkpoints")
    with started(config) as ranks:
        resource.prlimit(ranks.processes[0].pid, resource.RLIMIT_FSIZE, (30_000, 30_000))
        assert ranks.wait() == [3], ranks.output()
        assert "cannot write the checkpoint" in ranks.output()
        assert "Traceback" not in ranks.output()
    assert latest(tmp_path / "run" / "checkpoints") == before
    run(config)
    assert len(read_rows(tmp_path / "run" / "metrics.jsonl")) == 20
