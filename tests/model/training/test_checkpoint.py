"""Checkpoints: published whole or not at all, kept by rule, readable by any code that reads safetensors."""

from __future__ import annotations

import errno
import os
import pickle
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from model.training.checkpoint import latest, load, read_facts, retain, verify
from model.training.checkpoint import save as save_to
from model.training.config import CheckpointConfig
from model.training.distributed import Ranks
from model.training.storage.stores import CheckpointError, LocalCheckpoints, candidates
from model.training.writer import Writer
from schemas.config import ConfigError
from schemas.storage import retry

ALONE = Ranks(0, 1, torch.device("cpu"))


def tensors(value: float = 0.0, size: int = 40) -> dict[str, torch.Tensor]:
    return {
        "model.a": torch.full((size, 30), value),
        "optimiser.a/step": torch.tensor(value),
        "model.b": torch.full((7,), value),
    }


def save(folder: Path, step: int, tensors: dict[str, torch.Tensor], facts: dict[str, Any], ranks: Ranks) -> Path:
    return folder / save_to(LocalCheckpoints(folder), step, tensors, facts, ranks)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, 3, tensors(1.5), {"step": 3}, ALONE)
    target = tensors()
    load(latest(tmp_path), target, ALONE)
    assert all(torch.equal(target[name], tensor) for name, tensor in tensors(1.5).items())
    assert read_facts(latest(tmp_path))["step"] == 3
    assert (tmp_path / "latest").read_text() == "step-00000003\n"


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_folder_that_cannot_be_listed_holds_no_run_that_begins_anew(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shared file system that fails for a moment is asked again; what lasts is an error and no empty folder."""
    assert LocalCheckpoints(tmp_path / "none").names() == []
    save(tmp_path, 3, tensors(), {}, ALONE)
    store, fails = LocalCheckpoints(tmp_path), 2

    def failing(honest: Any) -> Any:
        def call(path: Any = ".") -> Any:
            nonlocal fails
            if str(path) == str(tmp_path) and (fails := fails - 1) >= 0:
                raise OSError(number, os.strerror(number), str(path))
            return honest(path)

        return call

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    if number == errno.EIO:
        assert candidates(store) == ["step-00000003"]
    else:
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            candidates(store)


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading does not unpickle: with every unpickler forbidden it still works, and no file begins like a pickle or a zip."""
    path = save(tmp_path, 1, tensors(2.0), {}, ALONE)
    assert {file.suffix for file in path.iterdir()} == {".json", ".safetensors"}

    def forbidden(*_: object, **__: object) -> object:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    load(path, tensors(), ALONE)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Writing a file beyond `limit` bytes fails in the kernel, as it does on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [0, 100, 20_000])
def test_a_full_disk_leaves_the_last_checkpoint_in_place(tmp_path: Path, limit: int) -> None:
    """A sentence with the file's name; `latest` still works; nothing half-written stays."""
    save(tmp_path, 1, tensors(1.0), {"step": 1}, ALONE)
    with (
        full_disk(limit),
        pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*step-00000002: .+ too large"),
    ):
        save(tmp_path, 2, tensors(2.0, size=4000), {"step": 2}, ALONE)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["latest", "step-00000001"]
    target = tensors()
    load(latest(tmp_path), target, ALONE)
    assert torch.equal(target["model.b"], torch.ones(7))


def test_a_kill_between_writing_and_publishing_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, tensors(1.0), {"step": 1}, ALONE)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(LocalCheckpoints, "publish", killed)
    with pytest.raises(Killed):
        save(tmp_path, 2, tensors(2.0), {"step": 2}, ALONE)
    monkeypatch.undo()
    assert latest(tmp_path).name == "step-00000001"
    save(tmp_path, 2, tensors(2.0), {"step": 2}, ALONE)  # over what the kill left
    assert latest(tmp_path).name == "step-00000002"
    retain(LocalCheckpoints(tmp_path), CheckpointConfig(keep=5))
    assert not list(tmp_path.glob(".partial*"))


def test_retention(tmp_path: Path) -> None:
    """The newest two, and every fourth for ever."""
    config = CheckpointConfig(keep=2, keep_every_steps=4)
    for step in range(1, 11):
        save(tmp_path, step, tensors(), {}, ALONE)
        retain(LocalCheckpoints(tmp_path), config)
    assert LocalCheckpoints(tmp_path).names() == [f"step-{step:08d}" for step in (4, 8, 9, 10)]


def test_another_shape_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1, tensors(), {}, ALONE)
    with pytest.raises(ConfigError, match=r"model.a is \[41, 30\], the checkpoint has \[40, 30\]"):
        load(path, tensors(size=41), ALONE)
    with pytest.raises(ConfigError, match=r"model.c is \[2\], the checkpoint has no such tensor"):
        load(path, {**tensors(), "model.c": torch.zeros(2)}, ALONE)


@pytest.mark.parametrize("name", ["checkpoint.json", "shard-00001-model-00001-of-00001.safetensors"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1, tensors(), {}, ALONE)
    (path / name).write_bytes((path / name).read_bytes()[:8])

    def read_all() -> None:
        read_facts(path)
        load(path, tensors(), ALONE)

    with pytest.raises(CheckpointError, match="step-00000001"):
        read_all()


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1, tensors(), {}, ALONE)
    (path / "checkpoint.json").write_text('{"format": 7}')
    with pytest.raises(CheckpointError, match="is not of checkpoint format 1"):
        read_facts(path)


def test_a_trained_model_comes_out_of_its_run_and_is_exported(tmp_path: Path) -> None:
    """The newest checkpoint's weights, by run or by checkpoint; the export loads as the same weights."""
    from safetensors.torch import load_file

    from model.exchange import hf
    from model.inference.trained import load_trained
    from model.train import main
    from tests.model.training.training_runs import run_document, write_data, write_run

    write_data(tmp_path / "data")
    config = write_run(run_document(tmp_path / "data", tmp_path / "run"), tmp_path / "run.yaml")
    assert main([str(config), "budget.steps=4"]) == 0
    newest = latest(tmp_path / "run" / "checkpoints")
    (file,) = newest.glob("*.safetensors")
    saved = load_file(file)
    for path in (tmp_path / "run", newest):
        trained = load_trained(path)
        assert trained.step == 4
        assert all(torch.equal(p, saved[f"model.{name}"]) for name, p in trained.module.named_parameters())
    hf.export(trained.module, tmp_path / "export")
    again = dict(hf.load(tmp_path / "export").named_parameters())
    assert all(torch.equal(p, again[name]) for name, p in trained.module.named_parameters())
    with pytest.raises(CheckpointError, match="is neither a checkpoint nor a run"):
        load_trained(tmp_path)


def test_the_pointer_decides_and_older_ones_follow(tmp_path: Path) -> None:
    """Who sets `latest` back goes back; what lies beyond it is removed with the next checkpoint."""
    for step in (1, 2, 3):
        save(tmp_path, step, tensors(), {}, ALONE)
    (tmp_path / "latest").write_text("step-00000002\n")
    after = ["step-00000003"]  # rather than nothing at all, where both are damaged
    assert candidates(LocalCheckpoints(tmp_path)) == ["step-00000002", "step-00000001", *after]
    retain(LocalCheckpoints(tmp_path), CheckpointConfig(keep=2))
    assert LocalCheckpoints(tmp_path).names() == ["step-00000001", "step-00000002"]
    for nonsense in ("step-00000009", "\0", ""):
        (tmp_path / "latest").write_text(nonsense)
        assert latest(tmp_path).name == "step-00000002"
    (tmp_path / "latest").unlink()
    assert latest(tmp_path).name == "step-00000002"


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 1, tensors(), {}, ALONE)
    facts = read_facts(path)
    verify(path, facts)
    (file,) = path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 4
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged: .* with CRC"):
        verify(path, facts)


def test_writing_beside_training_writes_what_was_there_then(tmp_path: Path) -> None:
    """What changes after the call is not in it; a failure is raised by the next call."""
    writer = Writer(LocalCheckpoints(tmp_path), CheckpointConfig(beside=True), ALONE)
    state = tensors(1.0)
    writer.write(1, state, {})
    for tensor in state.values():
        tensor.fill_(9.0)
    writer.wait()
    target = tensors()
    load(tmp_path / "step-00000001", target, ALONE)
    assert torch.equal(target["model.b"], torch.ones(7))
    with full_disk(0):
        writer.write(2, state, {})
        with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
            writer.wait()
    writer.wait()
    assert latest(tmp_path).name == "step-00000001"
