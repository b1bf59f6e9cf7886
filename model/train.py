"""Train a model.

    python -m model.train configs/train/tiny.yaml                             one process
    python -m model.train configs/train/tiny.yaml seed=2 optimiser.lr=1e-3    fields by their dotted name
    torchrun --nproc-per-node 8 -m model.train configs/train/1b.yaml          eight processes, sharded
    python -m model.train configs/train/tiny.yaml --dry-run                   sizes, data and budget; nothing is trained

Run the same command again to go on from the last checkpoint, on as many processes as you like. A signal (SIGINT,
SIGTERM, SIGUSR1) ends the run with a checkpoint and exit code 75 (try again).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas.cli import Parser, begin, command
from schemas.reference import as_help

if TYPE_CHECKING:
    from model.training.config import TrainConfig


def describe(config: TrainConfig) -> str:
    """What `--dry-run` prints: sizes, data, budget, and the machine's rates.

    Raises:
        ConfigError, ShardError: what a run would raise before its first step.
    """
    import torch

    from model.data.sources import Corpus
    from model.network.config import ModelConfig
    from model.network.lst import build_model
    from model.training.metrics import gemm_flops

    corpus = Corpus(config.data)
    assert isinstance(config.model, ModelConfig)
    with torch.device("meta"):
        module = build_model(config.model.with_vocabulary(corpus.vocabulary), config.seed)
    size = sum(parameter.numel() for parameter in module.parameters())
    packing, micro = config.packing, config.global_microbatches
    lines = [
        f"model        {size / 1e6:.1f} M parameters",
        f"vocabulary   {corpus.vocabulary.num_text} text tokens, {corpus.vocabulary.num_units} units",
        f"batch        {micro} micro-batches of {packing.elements} elements and {packing.latents} latents",
    ]
    total = sum(source.weight for source in config.data.sources)
    for name, source, samples in zip(corpus.names, config.data.sources, corpus.samples, strict=True):
        lines.append(
            f"{name:<12} {source.weight / total:.0%} of the elements, {sum(samples.counts)} samples, {source.data}"
        )
    limits = {**config.budget.limits(), **({"seconds": config.budget.seconds} if config.budget.seconds else {})}
    lines.append("budget       " + ", ".join(f"{value:g} {name}" for name, value in limits.items()))
    most = config.budget.limits()
    counted = {"steps": 1.0, "elements": float(micro * packing.elements), "latents": float(micro * packing.latents)}
    steps = [most[name] / counted[name] for name in most if name in counted]
    if steps:
        lines.append(f"steps        about {min(steps):.0f} with full batches")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates = {str(dtype)[6:]: gemm_flops(device, dtype) / 1e9 for dtype in (torch.float32, torch.bfloat16)}
    lines.append(
        "this machine " + ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items()) + " (matrix product)"
    )
    return "\n".join(lines)


def _fields() -> str:
    from model.training.config import TrainConfig

    return as_help(TrainConfig)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser(__doc__, reference=_fields)
    parser.add_argument("config", help="a file of configs/train/, or the folder of a run that goes on")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="fields to set, read as YAML")
    parser.add_argument("--dry-run", action="store_true", help="print sizes, data and budget, and stop")
    given = parser.parse_args(arguments)
    begin(f"training {given.config}")
    from model.training.config import load_train_config
    from model.training.loop import train

    config = load_train_config(given.config, given.overrides)
    logging.basicConfig(level=config.log.level.upper(), format="%(message)s", stream=sys.stderr)
    if given.dry_run:
        print(describe(config))
        return 0
    return train(config)


if __name__ == "__main__":
    sys.exit(main())
