"""A pilot: the plain baseline on text alone, scored text to text on every rung. It finds a size and a difficulty for a study.

    python -m recipes.study.pilot configs/experiments/study.yaml --task runs/stories-study/tasks/dev-text.jsonl \\
        --elements 3e6 --name size-128x4 --dim 128 --layers 4

Writes `pilots/NAME.json` beside the study's records, where its page finds it. Score on a split that the study leaves alone.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from model.cost.presets import plain_like
from model.inference.trained import load_trained
from model.network.config import ModelConfig
from model.scoring.accuracy import accuracy, groups_of, select
from model.scoring.scorer import score_task
from model.training.config import BudgetConfig, TrainConfig
from model.training.memory import steady_memory
from recipes.study.design.arms import shared_folder
from recipes.study.design.settings import Study, load_study
from recipes.study.driver import Watch, advance, begin
from recipes.study.records.ledger import Ledger
from recipes.study.records.readings import NORMALISATION
from schemas.commands.cli import Parser, command
from schemas.config import parse_config
from schemas.tasks import read_task


def text_run(study: Study, model: ModelConfig, elements: float, lr: float, folder: Path) -> TrainConfig:
    """The study's training on its text alone."""
    training = study.training
    document = {
        "output_dir": str(folder),
        "seed": 1,
        "model": model.model_dump(),
        "data": {
            "sources": [{"kind": "text", "data": study.data.text, "weight": 1, "document_chars": 1}],
            "tokenizer": {
                "path": str(shared_folder(study) / "tokenizer-text.json"),
                "train_size": study.data.text_tokens,
            },
            "lanes": study.data.lanes,
            "workers": 0,
        },
        "patches": {"policy": "static", "size": 1},
        "packing": {"elements": training.elements, "latents": training.elements, "min_piece": 8},
        "global_microbatches": training.global_microbatches,
        "optimiser": {**training.optimiser.model_dump(), "lr": lr},
        "schedule": {
            "kind": "wsd",
            "warmup_steps": training.warmup_steps,
            "decay_share": training.decay_share,
            "min_ratio": 0.0,
        },
        "clip_norm": training.clip_norm,
        "budget": {"elements": elements},
        "precision": training.precision,
        "threads": 1,
        "checkpoint": {"every_seconds": 600, "keep": 1},
        "log": {"level": "warning", "progress": False, "tensorboard": False},
    }
    return parse_config(TrainConfig, document, "pilot")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Train the pilot and print its accuracy on every rung."""
    parser = Parser(__doc__)
    parser.add_argument("config", help="a file of configs/experiments/")
    parser.add_argument("--name", required=True, help="of the pilot's record")
    parser.add_argument("--task", required=True, help="a task file with text")
    parser.add_argument("--elements", type=float, required=True, help="text tokens to train on")
    parser.add_argument("--dim", type=int, help="width (default: the study's)")
    parser.add_argument("--layers", type=int, help="layers (default: the study's)")
    parser.add_argument("--lr", type=float, help="learning rate (default: the first of the study's grid)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    steady_memory()
    study = load_study(given.config, [])
    stack = study.network.global_transformer
    updates = {"dim": given.dim, "num_layers": given.layers, "hidden_dim": 3 * given.dim if given.dim else None}
    stack = stack.with_updates(**{name: value for name, value in updates.items() if value})
    model = plain_like(study.network).with_updates(global_transformer=stack.model_dump())
    folder = Path(study.runs_dir) / "pilots" / given.name
    shutil.rmtree(folder, ignore_errors=True)
    lr = given.lr or study.training.rates[0]
    config = text_run(study, model, given.elements, lr, folder)
    watch = Watch(None, lambda line: print(line, file=sys.stderr, flush=True))
    run = begin(config)
    advance(run, BudgetConfig(elements=given.elements), 1.0, watch, lambda _: {}, 2.0)
    run.close()
    scored = score_task(load_trained(folder), read_task(given.task), ["T->T"], precision="fp32")
    found = {group: accuracy(select(scored, group=group), NORMALISATION).value for group in groups_of(scored)}
    record = {
        "name": given.name,
        "what": f"{stack.num_layers} layers of {stack.dim}, rate {lr:g}, T->T on {Path(given.task).name}, {len(scored)} items",
        "parameters": sum(parameter.numel() for parameter in run.module.parameters()),
        "elements": run.consumed["elements"],
        "core_seconds": run.consumed["core_seconds"],
        "found": found,
        "config": run.config.model_dump(mode="json"),
    }
    print(Ledger(study.results_dir).write(f"pilots/{given.name}", record))
    print("  ".join(f"{group} {value:.3f}" for group, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
