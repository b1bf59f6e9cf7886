"""Records: one small JSON for each finished unit of work, written last and whole. A unit that has one is not run again.

What is large and read by nobody is compressed: a run's curve, its items' points and log-likelihoods, nine tenths of its record,
beside it (`NAME.more.json.xz`), and what a task's items are, the whole record (`tasks/NAME.json.xz`). Whoever reads a record here
has them back in their places. Records that hold them in themselves, or beside in gzip as until 2026-11-27, are read alike.
"""

from __future__ import annotations

import copy
import gzip
import json
import lzma
import os
import platform
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from model.scoring.scorer import Scored
from model.training.checkpoint import versions
from recipes.study.records.choices import read_scored
from recipes.study.records.points import departures, points_with
from schemas.files import whole_file

FORMAT = 1
UNHIDDEN = "[!.]*.json"
"""Not those that another process is writing."""
Record = dict[str, Any]
PACKED: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    ".json": (bytes, bytes),
    ".gz": (partial(gzip.compress, mtime=0), gzip.decompress),
    ".xz": (partial(lzma.compress, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
}
"""By suffix: how a record is packed, and unpacked."""
ARCHIVE = "records.json.xz"
"""Records together, by unit. One that has a file of its own is read from that."""
LARGE = ("choices", "points", "tasks")
"""Of `measures`, kept beside a run's record; so is its curve."""


class Ledger:
    """The records of one study."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, unit: str) -> Path:
        """Where the record of `unit` (such as `runs/static-s1-compute`) is or will be."""
        if not unit.startswith("tasks/"):
            return self.folder / f"{unit}.json"
        before = self.folder / f"{unit}.json.gz"
        return before if before.exists() else self.folder / f"{unit}.json.xz"

    def has(self, unit: str) -> bool:
        """Whether the unit of work is finished."""
        return self.path(unit).exists() or unit in self._archive

    def read(self, unit: str) -> Record:
        """The record of a finished unit of work."""
        return self._unpacked(self._load(unit))

    def _load(self, unit: str) -> Record:
        """A record with its log-likelihoods."""
        path = self.path(unit)
        if not path.exists() and unit in self._archive:
            return copy.deepcopy(self._archive[unit])
        record: Record = _decoded(path)
        measures = record.get("measures", {})
        if isinstance(measures.get("choices"), str):  # the name of a file of them alone, as until 2026-11-27
            measures["choices"] = _decoded(path.with_name(measures["choices"]))
        if "more" in record:
            beside = _decoded(path.with_name(record.pop("more")))
            measures.update(beside["measures"])
            record["curve"] = beside["curve"]
        return record

    def write(self, unit: str, record: Record) -> Path:
        """Publish a record: it is there whole or not at all. What its log-likelihoods give is not written, but read back.

        Versions and machine are those of its first writing, where it was read here before."""
        path = self.path(unit)
        document = {"format": FORMAT, "unit": unit, **record}
        document = {
            **document,
            "versions": document.get("versions", versions()),
            "machine": document.get("machine", machine()),
        }
        small, large = _parted(_short(self._packed(document)))
        if large:
            beside = path.with_name(f"{path.stem}.more.json.xz")
            _write(beside, large)
            small["more"] = beside.name
        _write(path, small)
        return path

    def all(self, kind: str, points: bool = True) -> dict[str, Record]:
        """The records of a kind (`runs`, `rates`, `asr`), by name; without `points`, as they are kept: a quarter of a second less
        for each run, and nothing in `measures.tasks` of what log-likelihoods give."""
        names = {path.stem for path in (self.folder / kind).glob(UNHIDDEN)}
        names |= {unit.removeprefix(f"{kind}/") for unit in self._archive if unit.startswith(f"{kind}/")}
        records = {name: self._load(f"{kind}/{name}") for name in sorted(names)}
        return {name: self._unpacked(record) for name, record in records.items()} if points else records

    @cached_property
    def _archive(self) -> dict[str, Record]:
        path = self.folder / ARCHIVE
        return _decoded(path) if path.exists() else {}

    def pack(self, kinds: Sequence[str]) -> int:
        """Put the records of these kinds that have files of their own into the archive, as they are; returns how many."""
        units = {f"{kind}/{path.stem}": path for kind in kinds for path in (self.folder / kind).glob(UNHIDDEN)}
        if units:
            _write(self.folder / ARCHIVE, self._archive | {unit: self._load(unit) for unit in sorted(units)})
            for path in units.values():
                path.with_name(f"{path.stem}.more.json.xz").unlink(missing_ok=True)
                path.unlink()
            del self._archive
        return len(units)

    def _packed(self, record: Record) -> Record:
        """`measures.tasks` as departures from what `measures.choices` gives, wherever that and the task's facts are there."""
        measures = record.get("measures", {})
        known = [
            task for task in measures.get("choices", {}) if task in measures["tasks"] and self.has(f"tasks/{task}")
        ]
        if not known:
            return record
        points = {task: departures(measures["tasks"][task], self._kept(measures, task)) for task in known}
        rest = {task: found for task, found in measures["tasks"].items() if task not in known}
        return {**record, "measures": {**measures, "tasks": rest, "points": points}}

    def _unpacked(self, record: Record) -> Record:
        packed = record.get("measures", {}).get("points")
        if packed is None:
            return record
        measures = {name: value for name, value in record["measures"].items() if name != "points"}
        found = {task: points_with(self._kept(measures, task), changed) for task, changed in packed.items()}
        return {**record, "measures": {**measures, "tasks": {**found, **measures["tasks"]}}}

    def _kept(self, measures: Record, task: str) -> list[Scored]:
        return read_scored(_decoded(self.path(f"tasks/{task}")), measures["choices"][task])


def _parted(record: Record) -> tuple[Record, Record]:
    """What of a record is read by eye, and what stands beside it: nothing, unless items were scored."""
    measures = record.get("measures", {})
    large = {name: measures[name] for name in LARGE if measures.get(name)}
    if not large:
        return record, {}
    small = {name: value for name, value in record.items() if name != "curve"}
    small["measures"] = {name: value for name, value in measures.items() if name not in large}
    return small, {"measures": large, "curve": record.get("curve", [])}


def _write(path: Path, document: Any) -> None:
    content = (json.dumps(document, separators=(",", ":"), ensure_ascii=False) + "\n").encode()
    with whole_file(path) as unfinished:
        unfinished.write_bytes(PACKED[path.suffix][0](content))


def _decoded(path: Path) -> Any:
    return json.loads(PACKED[path.suffix][1](path.read_bytes()))


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
