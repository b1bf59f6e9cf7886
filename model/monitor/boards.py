"""Where rows are shown beside metrics.jsonl: TensorBoard's event files, and Weights & Biases."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from schemas.errors import ConfigError

SOUND_RATE = 16_000
"""Samples a second of the sounds that boards take."""

GROUPS = {
    "loss": ("loss", "loss_text", "loss_speech", "bits_per_second_of_speech", "bits_per_byte_of_text"),
    "held_out": ("validation_loss_text", "validation_loss_speech"),
    "optimiser": ("lr_factor", "grad_norm", "skipped"),
    "speed": (
        "elements_per_second",
        "latents_per_second",
        "speech_seconds_per_second",
        "elements_per_second_per_rank",
        "speech_seconds_per_second_per_rank",
        "share_of_peak",
        "mfu",
        "data_wait_share",
    ),
    "memory": ("memory_peak_gib", "host_memory_peak_gib"),
    "batch": ("fill_elements", "fill_latents", "fill_binding"),
}
"""Columns of a row by the group under which a board shows them."""
PREFIXES = {"source_": "sources", "task_": "tasks"}
"""Columns that a run names itself, by what their names begin with."""


def tags(row: Mapping[str, Any]) -> dict[str, float]:
    """`group/column` -> number, of what a board shows of a row."""
    groups = {name: group for group, names in GROUPS.items() for name in names}
    found = {}
    for name, value in row.items():
        if value is None or not isinstance(value, int | float):
            continue
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if name in groups:
            found[f"{groups[name]}/{name}"] = float(value)
        elif prefix is not None:
            found[f"{PREFIXES[prefix]}/{name.removeprefix(prefix)}"] = float(value)
    return found


class Board(Protocol):
    """One place where rows are shown."""

    def write(self, row: Mapping[str, Any]) -> None:
        """The numbers of a step."""
        ...

    def sound(self, name: str, samples: np.ndarray, step: int) -> None:
        """A sound at 16 kHz, float32 [T]."""
        ...

    def close(self) -> None:
        """Flush everything."""
        ...


class TensorBoard:
    """Event files in `tensorboard/`. Those of steps that a run repeats, resumed or begun anew, are marked as void."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # void from this step on: that of the last checkpoint does not come again
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        for name, value in tags(row).items():
            self._writer.add_scalar(name, value, row["step"])

    def sound(self, name: str, samples: np.ndarray, step: int) -> None:
        self._writer.add_audio(name, np.asarray(samples, np.float32)[None], step, sample_rate=SOUND_RATE)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, the same one after every resumption. Its files lie in `wandb/`; `offline` sends nothing."""

    def __init__(
        self, folder: Path, project: str, name: str | None, offline: bool, settings: Mapping[str, Any]
    ) -> None:
        """
        Raises:
            ConfigError: wandb is not installed, or takes no run.
        """
        try:
            import wandb
        except ImportError as error:
            raise ConfigError("log.wandb needs the package wandb", "uv pip install '.[wandb]'") from error
        known = folder / "wandb-run-id"
        run_id = known.read_text(encoding="utf-8").strip() if known.is_file() else uuid.uuid4().hex[:8]
        try:
            self._run = wandb.init(
                project=project,
                name=name or folder.name,
                id=run_id,
                resume=None if offline else "allow",
                dir=str(folder),
                mode="offline" if offline else "online",
                config=dict(settings),
                settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
            )
        except wandb.errors.Error as error:
            raise ConfigError(
                f"Weights & Biases takes no run: {error}", "log in with `wandb login`, or set log.wandb.offline"
            ) from error
        known.write_text(run_id + "\n", encoding="utf-8")
        self._audio = wandb.Audio
        self._run.define_metric("*", step_metric="step")  # its own counter refuses the steps that a resumed run repeats

    def write(self, row: Mapping[str, Any]) -> None:
        self._run.log({**tags(row), "step": row["step"]})

    def sound(self, name: str, samples: np.ndarray, step: int) -> None:
        self._run.log({name: self._audio(np.asarray(samples, np.float32), sample_rate=SOUND_RATE), "step": step})

    def close(self) -> None:
        self._run.finish()
