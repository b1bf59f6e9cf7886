"""Training in sittings: a trunk at a constant rate, and a branch with its decay for every control.

A WSD run that is given its budget before the decay begins equals one that had it from the start, so a branch's
configuration alone (`python -m model.train`) makes the same model: that is what a record keeps.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from model.data.sources import TrainingData
from model.monitor.metrics import Metrics, read_rows
from model.monitor.rows import LogRow
from model.training.checkpoint import check_same_run, latest, read_facts
from model.training.config import BudgetConfig, TrainConfig
from model.training.distributed import Ranks
from model.training.run import Run

Observe = Callable[[Run], LogRow]

ADOPTED = "adopted.json"
"""In a trunk's folder: the trunk of another study that it goes on from."""


class OutOfTime(Exception):
    """The sitting is over; everything so far is in checkpoints."""


class Watch:
    """A sitting's clock: says when to save, and when it is over."""

    def __init__(self, hours: float | None, say: Callable[[str], None]) -> None:
        self.say = say
        self._end = None if hours is None else time.monotonic() + 3600 * hours
        self._saved = self._spoke = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether the sitting is over."""
        return self._end is not None and time.monotonic() >= self._end

    def save_due(self, seconds: float) -> bool:
        """Whether `seconds` have passed since the last time this was true."""
        if time.monotonic() - self._saved < seconds:
            return False
        self._saved = time.monotonic()
        return True

    def progress(self, what: str, share: float, row: LogRow) -> None:
        """Say how far a unit of work is, every 20 s at most."""
        if time.monotonic() - self._spoke >= 20:
            self._spoke = time.monotonic()
            parts = [f"{what} {share:4.0%}", f"step {row['step']}"]
            parts += [f"{n} {row['loss_' + n]:.3f}" for n in ("text", "speech") if row.get("loss_" + n) is not None]
            self.say("  ".join(parts))


def begin(config: TrainConfig, device: str = "cpu") -> Run:
    """A run at its last checkpoint, or at its start."""
    torch.set_num_threads(config.threads or 1)
    run = Run(config, TrainingData(config.data), Ranks(0, 1, torch.device(device)))
    run.resume()
    run.consumed.setdefault("core_seconds", 0.0)
    return run


def advance(run: Run, until: BudgetConfig, share: float, watch: Watch, observe: Observe, every: float) -> None:
    """Steps until `share` of `until` is used up; saves there. `observe` adds to a row each time `every` of `until` is passed.

    Raises:
        OutOfTime: after saving.
    """
    metrics = Metrics(run.folder, first_step=run.steps)
    what = "/".join(run.folder.parts[-2:])
    try:
        while until.progress(run.consumed) < share:
            before, began = until.progress(run.consumed), time.process_time()
            row = run.step()
            run.consumed["core_seconds"] += time.process_time() - began
            row["core_seconds"] = run.consumed["core_seconds"]
            after = until.progress(run.consumed)
            if int(after / every) > int(before / every):
                row.update(observe(run))
            metrics.write(row)
            watch.progress(what, after, row)
            if watch.over:
                run.save()
                raise OutOfTime
            if watch.save_due(run.config.checkpoint.every_seconds or 300):
                run.save()
    finally:
        metrics.close()
    run.save()


def adopt(trunk: TrainConfig, folders: list[str]) -> dict[str, Any] | None:
    """Let a trunk that has not begun go on from the first one of its name in `folders`; what it goes on from, if anything.

    Raises:
        ConfigError: that trunk is of other data or settings; the sentence names the fields.
    """
    folder = Path(trunk.output_dir)
    if latest(folder / "checkpoints") is None:
        for other in (Path(where) / folder.name for where in folders):
            newest = latest(other / "checkpoints")
            if newest is not None:
                facts = read_facts(newest)
                run = Run(trunk, TrainingData(trunk.data), Ranks(0, 1, torch.device("cpu")))
                check_same_run(newest, facts, run.config, run.corpus.fingerprint())
                plant(other, folder)
                source = {"trunk": str(other), "consumed": facts["consumed"]}
                (folder / ADOPTED).write_text(json.dumps(source), encoding="utf-8")
                break
    kept = folder / ADOPTED
    return json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None


def leave_trunk(
    trunk: TrainConfig,
    branches: list[tuple[Path, BudgetConfig]],
    target: Path,
    share: float,
    watch: Watch,
    observe: Observe,
    every: float,
    device: str = "cpu",
) -> None:
    """Train the trunk to where `target` leaves it, planting each branch on the way; nothing is done where it has begun.

    `branches` are (folder, budget) in the order in which they leave, at `share` of their budgets.

    Raises:
        OutOfTime: see `advance`.
    """
    if latest(target / "checkpoints") is not None:
        return
    run = begin(trunk, device)
    if _passed(run, dict(branches)[target], share):
        watch.say(f"{target} is gone and its trunk has grown past it: the trunk begins again")
        run.close()
        shutil.rmtree(run.folder)
        run = begin(trunk, device)
    for folder, budget in branches:
        if latest(folder / "checkpoints") is None and not _passed(run, budget, share):
            advance(run, budget, share, watch, observe, every)
            plant(run.folder, folder)
        if folder == target:
            break
    run.close()


def _passed(run: Run, budget: BudgetConfig, share: float) -> bool:
    """Whether the run is beyond the step at which a branch leaves: at it, the step before had not reached `share`."""
    rows = [row for row in read_rows(run.folder / "metrics.jsonl") if row["step"] == run.steps - 1]
    return bool(rows) and budget.progress({**rows[-1], "steps": rows[-1]["step"]}) >= share


def plant(trunk: Path, folder: Path) -> None:
    """A branch begins with the trunk's newest checkpoint and its metrics so far; complete once the checkpoint has its name."""
    newest = latest(trunk / "checkpoints")
    assert newest is not None
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(trunk / "metrics.jsonl", folder)
    shutil.copytree(newest, folder / "checkpoints" / ".planted")
    (folder / "checkpoints" / ".planted").rename(folder / "checkpoints" / newest.name)


def curve(folder: Path, points: int) -> list[dict[str, Any]]:
    """A run's metrics, thinned for a record: rows where held-out losses were taken, and about `points` evenly spaced ones."""
    names = ("step", "elements", "flops", "core_seconds", "loss_text", "bits_per_second_of_speech")
    rows = read_rows(folder / "metrics.jsonl")
    stride = max(1, len(rows) // points)
    return [
        {name: row[name] for name in (*names, *(n for n in row if n.startswith("held_"))) if row.get(name) is not None}
        for row in rows
        if row["step"] % stride == 0 or any(name.startswith("held_") for name in row)
    ]
