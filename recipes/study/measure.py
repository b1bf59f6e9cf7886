"""What a finished run is measured by: held-out losses and choices between endings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model.inference.trained import Trained, load_trained
from model.scoring.documents import DIRECTIONS
from model.scoring.losses import losses_of
from model.scoring.scorer import Scored, score_task
from recipes.study.design.settings import Study
from recipes.study.heldout import losses, open_held_out
from recipes.study.records.choices import log_probs, task_facts
from recipes.study.records.ledger import Ledger
from recipes.study.records.points import points_of
from schemas.cards import hash_file
from schemas.tasks import Task, read_task


def measure(study: Study, run: Path, device: str = "cpu") -> dict[str, Any]:
    """Held-out losses, and for each task, group and direction the points of every item, of a run's newest checkpoint."""
    torch.set_num_threads(1)
    began = time.process_time()
    trained = load_trained(run, device)
    held = open_held_out(trained.config, study.measures.held_out_documents)
    found: dict[str, Any] = {"held_out": losses(trained.module, held), "step": trained.step}
    found |= score_all(study, trained, read_scored_tasks(study))
    if study.measures.loss_documents and trained.config.data.unit_bpe is None:
        found["losses"] = losses_of(trained, study.measures.loss_documents)
    found["core_seconds_of_measuring"] = time.process_time() - began
    return found


def read_scored_tasks(study: Study) -> list[Task]:
    """The tasks that a study scores, each with the items that it takes."""
    return [first_items(read_task(wanted.path), wanted.items_per_group) for wanted in study.measures.tasks]


def score_all(study: Study, trained: Trained, tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """`tasks` and `choices` of a record: for each task, in all directions, the points of every item and what they rest on."""
    found: dict[str, dict[str, Any]] = {"tasks": {}, "choices": {}}
    for task in tasks:
        scored = score_task(trained, task, DIRECTIONS, precision="fp32")
        found["tasks"][task.header.task] = points_of(scored)
        found["choices"][task.header.task] = log_probs(scored, _facts_of(study, task, scored))
    return found


def _facts_of(study: Study, task: Task, scored: list[Scored]) -> dict[str, Any]:
    """The record of what the task is, written by the first run that scores it; each ending counts in units and text tokens."""
    ledger, name = Ledger(study.results_dir), f"tasks/{task.header.task}"
    if not ledger.has(name):
        ledger.write(name, {"sha256": hash_file(task.path) if task.path else None, **task_facts(scored)})
    return ledger.read(name)


def first_items(task: Task, per_group: int) -> Task:
    """The first `per_group` items of each group."""
    counts: dict[str, int] = {}
    kept = []
    for item in task.items:
        counts[item.group] = counts.get(item.group, 0) + 1
        if counts[item.group] <= per_group:
            kept.append(item)
    return Task(header=task.header, items=kept, path=task.path)
