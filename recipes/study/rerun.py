"""Train one finished run again from its record alone, and compare what is measured.

    python -m recipes.study.rerun configs/experiments/study.yaml static-s1-compute

The record's configuration is trained from nothing as one run (`model.train` would do the same): no trunk, no branch, no sitting.
Tokenizers that are missing are trained as the study trains them. Where the data are others than the records' it says so.
Exit code 0: every loss is within `--tolerance` of the record's (relative) and every accuracy within `--points`; else 4.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model.data.sources import TrainingData
from model.training.config import TrainConfig
from model.training.memory import steady_memory
from recipes.study.design.arms import shared_unit_bpe
from recipes.study.design.settings import Study, load_study
from recipes.study.driver import Watch, advance, begin
from recipes.study.measure import measure
from recipes.study.records.ledger import Ledger
from recipes.study.records.readings import accuracy
from schemas.commands.cli import Parser, command
from schemas.config import ConfigError, parse_config
from schemas.errors import ExitCode

TOLERANCE = 1e-3
"""Of losses, relative. On the machine that made the record the difference is 0; another CPU sums in another order, and what
that makes of a run of thousands of steps was not measured here."""
POINTS = 0.03
"""Of accuracies."""


def train_again(study: Study, record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What is measured of the record's configuration, trained from nothing in `folder` (which is cleared)."""
    shutil.rmtree(folder, ignore_errors=True)
    config = parse_config(TrainConfig, {**record["config"], "output_dir": str(folder)}, "the record's config")
    if config.data.unit_bpe is not None:
        shared_unit_bpe(study)  # a record has its place alone
    run = begin(config)
    if differ := other_data(study, run.corpus):
        print(
            f"warning: not the records' data: {', '.join(differ)}; what comes out may differ by them", file=sys.stderr
        )
    say = Watch(None, lambda line: print(line, file=sys.stderr, flush=True))
    advance(run, config.budget, 1.0, say, lambda _: {}, 2.0)
    run.close()
    return {"consumed": run.consumed, "measures": measure(study, folder)}


def other_data(study: Study, corpus: TrainingData) -> list[str]:
    """The sources, and the tokenizer, that are not those on which the study's records stand."""
    ledger = Ledger(study.results_dir)
    recorded = ledger.read("facts")["corpus"] if ledger.has("facts") else {}
    now = corpus.fingerprint()
    differ = [name for name, content in recorded.get("sources", {}).items() if now["sources"].get(name) != content]
    return differ + [name for name in ("tokenizer", "num_units") if recorded.get(name, now[name]) != now[name]]


def compare(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[float, float, bool]]:
    """name -> (recorded, found, is a loss) of every loss and every accuracy."""
    losses = old["measures"]["held_out"]
    rows = {name: (losses[name], new["measures"]["held_out"][name], True) for name in losses}
    for task, groups in old["measures"]["tasks"].items():
        for direction in next(iter(groups.values()), {}):
            a, b = accuracy(old, task, direction), accuracy(new, task, direction)
            assert a is not None
            rows[f"{task} {direction}"] = (a.value, b.value if b is not None else float("nan"), False)
    return rows


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Train one run again and compare; `NOT_ACCEPTED` where it differs."""
    parser = Parser(__doc__)
    parser.add_argument("config", help="a file of configs/experiments/")
    parser.add_argument("run", help="such as static-s1-compute: a file of the study's records under runs/")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of losses, relative (default: %(default)s)")
    parser.add_argument("--points", type=float, default=POINTS, help="of accuracies (default: %(default)s)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    steady_memory()
    study = load_study(given.config, [])
    ledger = Ledger(study.results_dir)
    if not ledger.has(f"runs/{given.run}"):
        raise ConfigError(f"no record of {given.run}; there are {', '.join(ledger.all('runs')) or 'none'}")
    record = ledger.read(f"runs/{given.run}")
    found = train_again(study, record, Path(study.runs_dir) / "rerun" / given.run)
    good = True
    for name, (old, new, is_loss) in compare(record, found).items():
        holds = abs(new - old) <= (given.tolerance * abs(old) if is_loss else given.points)
        good = good and holds
        print(f"{name:<32} recorded {old:<14.10g} again {new:<14.10g} {'yes' if holds else 'NO'}")
    return ExitCode.DONE if good else ExitCode.NOT_ACCEPTED


if __name__ == "__main__":
    sys.exit(main())
