"""Records: one small JSON for each finished unit of work, written last and whole. A unit that has one is not run again."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from model.training.checkpoint import versions

FORMAT = 1


class Ledger:
    """The records of one study."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, unit: str) -> Path:
        """Where the record of `unit` (such as `runs/static-s1-compute`) is or will be."""
        return self.folder / f"{unit}.json"

    def has(self, unit: str) -> bool:
        """Whether the unit of work is finished."""
        return self.path(unit).exists()

    def read(self, unit: str) -> dict[str, Any]:
        """The record of a finished unit of work."""
        record: dict[str, Any] = json.loads(self.path(unit).read_text(encoding="utf-8"))
        return record

    def write(self, unit: str, record: dict[str, Any]) -> Path:
        """Publish a record: it is there whole or not at all."""
        path = self.path(unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        document = {"format": FORMAT, "unit": unit, **record, "versions": versions(), "machine": machine()}
        partial.write_text(
            json.dumps(_short(document), separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8"
        )
        os.replace(partial, path)
        return path

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """The records of a kind (`runs`, `rates`, `asr`), by name."""
        found = sorted((self.folder / kind).glob("*.json"))
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in found}


def machine() -> dict[str, str | float]:
    """What the figures were taken on. No names: a page that is published says cores, not hosts. `device`: a GPU, where this
    process used one; core seconds are then those of the core that fed it."""
    return {
        "processor": platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_initialized() else "cpu",
        "cores": float(os.cpu_count() or 0),
        "threads": float(torch.get_num_threads()),
        "load": round(os.getloadavg()[0], 2),
    }


def _short(value: Any) -> Any:
    """Floats to ten digits: enough for every figure, and the file stays small."""
    if isinstance(value, float):
        return float(f"{value:.10g}")
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return value
