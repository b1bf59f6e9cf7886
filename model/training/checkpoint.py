"""Checkpoints: torch's distributed checkpoint in safetensors form, with the facts of the run (where they stand: stores.py).

Any number of ranks can read what any other number wrote. Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import logging
import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

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
from model.training.storage.stores import FACTS, CheckpointError, Checkpoints, LocalCheckpoints, Seals, seal
from schemas.config import ConfigError
from schemas.errors import CredentialsError, ExitCode, StorageError

log = logging.getLogger(__name__)

FORMAT = 1
Result = TypeVar("Result")


def save(store: Checkpoints, step: int, tensors: dict[str, torch.Tensor], facts: dict[str, Any], ranks: Ranks) -> str:
    """Write checkpoint `step` and return its name; it is published, and the latest.

    Raises:
        CheckpointError: on every rank, where any rank could not write. What was there before stays as it was.
    """
    name = f"step-{step:08d}"
    where = f"{store}/{name}"
    partial = _together(lambda: store.begin(name, ranks.rank), where, ranks)[ranks.rank]
    try:
        _together(lambda: _write(tensors, partial, ranks), where, ranks)
        seals: Seals = {}
        for part in _together(lambda: store.keep(name, partial, ranks.rank), where, ranks):
            seals |= part
        document = {"format": FORMAT, **facts, "files": dict(sorted(seals.items()))}
        _together(lambda: store.publish(name, partial, document) if ranks.is_main else None, where, ranks)
    except CheckpointError:
        store.discard(name, partial, ranks.rank)
        raise
    return name


def _write(tensors: dict[str, torch.Tensor], folder: Path, ranks: Ranks) -> None:
    _single_process_is_meant(ranks)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    dcp_save(tensors, storage_writer=writer, no_dist=ranks.world == 1, process_group=ranks.host)


def verify(path: Path, facts: dict[str, Any]) -> None:
    """Read every file of a checkpoint again. Checkpoints of older code have nothing to compare with.

    Raises:
        CheckpointError: one is missing or is not what was written.
    """
    for name, sealed in facts.get("files", {}).items():
        file = path / name
        try:
            found = seal(file)
        except OSError as error:
            raise CheckpointError(f"cannot read {file}: {error}") from error
        if found != sealed:
            raise CheckpointError(
                f"{file} is damaged: {found[0]} bytes with CRC {found[1]:08x}, written were {sealed[0]} with {sealed[1]:08x}"
            )


def _together(do: Callable[[], Result], where: str, ranks: Ranks) -> list[Result]:
    """What `do` gives on each rank; where it fails on one, all raise.

    Raises:
        CheckpointError: a sentence of the first rank that failed.
    """
    result = problem = None
    try:
        result = do()
    except (OSError, CheckpointException, RuntimeError, CredentialsError) as error:
        problem = _problem(where, error)
    outcomes = ranks.gather((result, problem))
    for _, said in outcomes:
        if said is not None:
            raise CheckpointError(*said)
    return [outcome for outcome, _ in outcomes]


def _problem(where: str, error: BaseException) -> tuple[str, str, ExitCode]:
    """What happened, what to do, and the exit code that goes with it."""
    cause = error
    if isinstance(error, CheckpointException) and error.failures:
        cause = next(iter(error.failures.values()))[0]
    reason = getattr(cause, "strerror", None) or (str(cause).splitlines() or [type(cause).__name__])[0]
    happened = f"cannot write the checkpoint {where}: {reason}. Older checkpoints are untouched"
    if isinstance(cause, StorageError):
        return happened, "run the same command again to go on", ExitCode.TRY_AGAIN
    return happened, "free space or change output_dir", ExitCode.STORAGE


def retain(store: Checkpoints, config: CheckpointConfig) -> None:
    """Remove what the retention rule does not keep, what lies beyond the newest (a run that went back to an older one writes it
    anew), and leftovers of writers that were killed. Main rank only."""
    newest, names = store.latest(), store.names()
    beyond = [name for name in names if newest is not None and name > newest]
    names = [name for name in names if name not in beyond]
    old = [name for name in names[: -config.keep] if not _stays(int(name.removeprefix("step-")), config)]
    store.remove([*beyond, *old])


def _stays(step: int, config: CheckpointConfig) -> bool:
    return config.keep_every_steps is not None and step % config.keep_every_steps == 0


def latest(folder: Path) -> Path | None:
    """The checkpoint to go on from, in a folder of this machine."""
    name = LocalCheckpoints(folder).latest()
    return None if name is None else folder / name


def read_facts(path: Path) -> dict[str, Any]:
    """The JSON of a checkpoint.

    Raises:
        CheckpointError: it cannot be read.
    """
    file = path / FACTS
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
    """Fill `tensors` in place; each rank reads the parts it holds, whatever the number of ranks that wrote them. On the meta
    device, where there is nothing to fill, names and shapes are compared.

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
        if all(tensor.is_meta for tensor in tensors.values()):
            return
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
