"""Checkpoints: torch's distributed checkpoint in safetensors form, published by one rename.

    checkpoints/step-00000100/        shard-*.safetensors   weights and optimiser state, each rank its part
                                      checkpoint.json       configuration, data fingerprint, versions, loader, counts, CRCs
    checkpoints/latest                the name of the one to go on from

A directory that bears its final name is complete: it is written under another name and renamed once everything is on disk.
Any number of ranks can read what any other number wrote. Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from model.training.config import CheckpointConfig, TrainConfig, differences, flatten, identity
from model.training.distributed import Ranks
from schemas.config import ConfigError
from schemas.errors import DataError

log = logging.getLogger(__name__)

FORMAT = 1
NAME = re.compile(r"step-(\d{8})")


class CheckpointError(DataError):
    """A checkpoint could not be written or read; the message names the file."""


def save(folder: Path, step: int, tensors: dict[str, torch.Tensor], facts: dict[str, Any], ranks: Ranks) -> Path:
    """Write checkpoint `step`; on return it is published and `latest` names it.

    Raises:
        CheckpointError: on every rank, where any rank could not write. What was there before stays as it was.
    """
    target, partial = folder / f"step-{step:08d}", folder / f".partial-{step:08d}"
    problem = None
    try:
        if ranks.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
    except OSError as error:
        problem = _sentence(partial, error)
    _agree(problem, ranks, partial)
    try:
        _single_process_is_meant(ranks)
        dcp_save(
            tensors,
            storage_writer=HuggingFaceStorageWriter(str(partial), save_distributed=True),
            no_dist=ranks.world == 1,
            process_group=ranks.host,
        )
        if ranks.is_main:
            files = {file.name: _seal(file) for file in sorted(partial.iterdir())}
            (partial / "checkpoint.json").write_text(
                json.dumps({"format": FORMAT, **facts, "files": files}, indent=1), encoding="utf-8"
            )
            for file in partial.iterdir():
                _sync(file)
            _sync(partial)
    except (OSError, CheckpointException, RuntimeError) as error:
        problem = _sentence(partial, error)
    _agree(problem, ranks, partial)
    try:
        if ranks.is_main:
            _publish(partial, target, folder)
    except OSError as error:
        problem = _sentence(target, error)
    _agree(problem, ranks, partial)
    return target


def _seal(file: Path) -> list[int]:
    """Bytes and CRC-32 of a file: what tells a damaged one (safetensors checks its header alone)."""
    size = crc = 0
    with file.open("rb") as stream:
        while block := stream.read(2**24):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]


def verify(path: Path, facts: dict[str, Any]) -> None:
    """Read every file of a checkpoint again. Checkpoints of older code have nothing to compare with.

    Raises:
        CheckpointError: one is missing or is not what was written.
    """
    for name, sealed in facts.get("files", {}).items():
        file = path / name
        try:
            found = _seal(file)
        except OSError as error:
            raise CheckpointError(f"cannot read {file}: {error}") from error
        if found != sealed:
            raise CheckpointError(
                f"{file} is damaged: {found[0]} bytes with CRC {found[1]:08x}, written were {sealed[0]} with {sealed[1]:08x}"
            )


def _publish(partial: Path, target: Path, folder: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    pointer = folder / ".latest.part"
    pointer.write_text(target.name + "\n", encoding="utf-8")
    _sync(pointer)
    os.replace(pointer, folder / "latest")
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sentence(path: Path, error: BaseException) -> str:
    cause = error
    if isinstance(error, CheckpointException) and error.failures:
        cause = next(iter(error.failures.values()))[0]
    reason = getattr(cause, "strerror", None) or str(cause).splitlines()[0]
    return f"cannot write the checkpoint {path}: {reason}. Older checkpoints are untouched; free space or change output_dir."


def _agree(problem: str | None, ranks: Ranks, partial: Path) -> None:
    """Raise on every rank if one of them has a problem, and leave nothing half-written behind."""
    problems = [text for text in ranks.gather(problem) if text]
    if problems:
        if ranks.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(problems[0])


def retain(folder: Path, config: CheckpointConfig) -> None:
    """Remove what the retention rule does not keep, what lies beyond the newest (a run that went back to an older one writes it
    anew), and leftovers of writers that were killed. Main rank only."""
    newest = latest(folder)
    found = checkpoints(folder)
    beyond = [path for _, path in found if newest is not None and path.name > newest.name]
    found = [(step, path) for step, path in found if path not in beyond]
    old = [path for step, path in found[: -config.keep] if not _stays(step, config)]
    for path in [*beyond, *old, *folder.glob(".partial-*")]:
        shutil.rmtree(path, ignore_errors=True)


def _stays(step: int, config: CheckpointConfig) -> bool:
    return config.keep_every_steps is not None and step % config.keep_every_steps == 0


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, directory) of each complete checkpoint, oldest first."""
    matches = [(NAME.fullmatch(path.name), path) for path in folder.glob("step-*")]
    return sorted((int(match.group(1)), path) for match, path in matches if match)


def latest(folder: Path) -> Path | None:
    """The checkpoint to go on from: the one that `latest` names; where there is none, the newest."""
    found = [path for _, path in checkpoints(folder)]
    try:
        named = folder / (folder / "latest").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        named = None
    return named if named in found else (found[-1] if found else None)


def candidates(folder: Path) -> list[Path]:
    """What a run may go on from: the latest, then the ones before it, newest first."""
    newest = latest(folder)
    return [] if newest is None else [path for _, path in reversed(checkpoints(folder)) if path.name <= newest.name]


def read_facts(path: Path) -> dict[str, Any]:
    """The JSON of a checkpoint.

    Raises:
        CheckpointError: it cannot be read.
    """
    file = path / "checkpoint.json"
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise CheckpointError(f"{file} is not of checkpoint format {FORMAT}, which this code reads")
    return facts


def check_same_run(path: Path, facts: dict[str, Any], config: TrainConfig, data: dict[str, Any]) -> None:
    """Refuse a checkpoint of other data, another model or other settings; say what else has changed.

    Raises:
        ConfigError: it cannot be gone on from; the sentence names the fields.
    """
    if changed := differences(flatten(facts["data"]), flatten(data)):
        raise ConfigError(f"cannot resume from {path}: the data has changed ({'; '.join(changed)})")
    if changed := differences(_identity_then(facts), identity(config)):
        raise ConfigError(
            f"cannot resume from {path}: {'; '.join(changed)}. Change it back, or choose another output_dir"
        )
    for name, version in versions().items():
        before = facts["versions"].get(name)
        if before != version:
            log.warning("%s was %s and is now %s: losses may differ slightly", name, before, version)
    budget = config.budget.model_dump()
    if facts["config"]["budget"] != budget:
        log.warning("the budget was %s and is now %s: the schedule follows it", facts["config"]["budget"], budget)


def _identity_then(facts: dict[str, Any]) -> dict[str, Any]:
    """What decided results when the checkpoint was written, in today's fields. A field that came later has its default there:
    defaults of new fields keep what was done before, so a run of an older version goes on. A configuration that today's code
    cannot read stands as it was recorded."""
    try:
        return identity(TrainConfig.model_validate(facts["config"]))
    except ValidationError:
        return dict(facts["identity"])


def load(path: Path, tensors: dict[str, torch.Tensor], ranks: Ranks) -> None:
    """Fill `tensors` in place; each rank reads the parts it holds, whatever the number of ranks that wrote them.

    Raises:
        CheckpointError: a file is missing or damaged.
        ConfigError: the checkpoint lacks a tensor, or has it in another shape.
    """
    try:
        reader = HuggingFaceStorageReader(str(path))
        found = reader.read_metadata().state_dict_metadata
        saved = {name: entry for name, entry in found.items() if isinstance(entry, TensorStorageMetadata)}
        wrong = [
            f"{name} is {list(tensor.shape)}, the checkpoint has {list(saved[name].size) if name in saved else 'no such tensor'}"
            for name, tensor in tensors.items()
            if name not in saved or list(saved[name].size) != list(tensor.shape)
        ]
        if wrong:
            raise ConfigError(f"{path} does not fit this model: {'; '.join(wrong[:3])}")
        _single_process_is_meant(ranks)
        dcp_load(tensors, storage_reader=reader, no_dist=ranks.world == 1, process_group=ranks.host)
    except ConfigError:
        raise
    except Exception as error:  # safetensors raises its own bare exception on a damaged header
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error


def _single_process_is_meant(ranks: Ranks) -> None:
    if ranks.world == 1:
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


def versions() -> dict[str, str]:
    """Of what computes: a change is logged on resume, not refused."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
