"""Score kept checkpoints on the tasks that a study's configuration has and its records lack; nothing is trained.

    python -m recipes.study.remeasure configs/experiments/study-ladder-natural-cuts.yaml

A task that is added to a study is scored by its next runs alone. Records without a checkpoint stay as they are, and are named.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from model.inference.trained import load_trained
from model.training.checkpoint import latest
from recipes.study.design.settings import Study, load_study
from recipes.study.measure import read_scored_tasks, score_all
from recipes.study.records.ledger import Ledger, Record
from schemas.commands.cli import Parser, command
from schemas.config import ConfigError


def remeasure(study: Study, record: Record, run: Path) -> Record:
    """The record with the tasks that it lacks, by the checkpoint in `run`.

    Raises:
        ConfigError: the checkpoint is not the one that was measured.
    """
    measures = record["measures"]
    tasks = [task for task in read_scored_tasks(study) if task.header.task not in measures["tasks"]]
    trained = load_trained(run, "cpu")
    if trained.step != measures["step"]:
        raise ConfigError(
            f"{run} holds step {trained.step} and {record['unit']} was measured at step {measures['step']}: they are of "
            "different runs; move the folder away, or train again (recipes.study.rerun)"
        )
    found = score_all(study, trained, tasks)
    return {**record, "measures": {**measures, **{name: {**measures.get(name, {}), **found[name]} for name in found}}}


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Add to the records what their checkpoints say of further tasks."""
    parser = Parser(__doc__)
    parser.add_argument("config", help="a file of configs/experiments/")
    parser.add_argument("--only", metavar="ARM,ARM", help="the runs of these arms alone")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    study = load_study(given.config, [])
    arms = study.arms_of(given.only)
    ledger = Ledger(study.results_dir)
    wanted = {task.header.task for task in read_scored_tasks(study)}
    lacking = [
        name
        for name, record in ledger.all("runs", points=False).items()
        if record["arm"] in arms and not wanted <= set(record["measures"].get("choices", {}))
    ]
    gone = [name for name in lacking if latest(Path(study.runs_dir) / name / "checkpoints") is None]
    for name in tqdm([name for name in lacking if name not in gone], desc="runs", unit="run"):
        record = ledger.read(f"runs/{name}")
        ledger.write(f"runs/{name}", remeasure(study, record, Path(study.runs_dir) / name))
    if gone:
        print(f"without a checkpoint in {study.runs_dir}, left as they are: {', '.join(gone)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
