"""Train a model.

    python -m model.train configs/train/tiny.yaml                             one process
    python -m model.train configs/train/tiny.yaml seed=2 output_dir=runs/seed-2    fields by their dotted name
    python -m model.train configs/train/tiny.yaml --shards runs/mine/shards/index.json output_dir=runs/mine-lst    your speech
    torchrun --nproc-per-node 8 -m model.train configs/train/1b.yaml          eight processes, sharded
    python -m model.train configs/train/tiny.yaml --dry-run                   sizes, data and budget; nothing is trained

Run the same command again to go on from the last checkpoint, on as many processes as you like. A signal (SIGINT,
SIGTERM, SIGUSR1) ends the run with a checkpoint and exit code 75 (try again).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas.commands.cli import Parser, begin, command, count, positive
from schemas.commands.processes import end_with_parent
from schemas.commands.reference import as_help
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from model.data.sources import TrainingData
    from model.training.config import TrainConfig


def describe(config: TrainConfig, ranks: int = 1, room_gib: float | None = None) -> str:
    """What `--dry-run` prints: sizes, data, budget, memory of each of `ranks` ranks, and the machine's rates.

    Raises:
        ConfigError, ShardError: what a run would raise before its first step; a rank that needs more than `room_gib`
            (default: what the GPU has, if there is one).
    """
    import torch

    from model.data.loader import Placement
    from model.data.sources import TrainingData
    from model.monitor.metrics import gemm_flops
    from model.network.lst import build_model
    from model.training.distributed import mesh_shape
    from model.training.parts import with_own_parts
    from model.training.storage.place import RunPlace
    from model.training.stream import make_stream
    from schemas.tasks import read_task

    Placement(0, ranks, config.global_microbatches, config.data.lanes, config.data.workers).check()
    if ranks > 1:
        mesh_shape(config.sharding, ranks)
    corpus = TrainingData(with_own_parts(config.data, RunPlace(config.output_dir).folder), planned=True)
    make_stream(config, corpus, "train")
    if config.validation is not None:
        make_stream(config, corpus, "validation")
    with torch.device("meta"):
        module = build_model(config.network.with_vocabulary(corpus.vocabulary), config.seed)
    size = sum(parameter.numel() for parameter in module.parameters())
    packing, micro = config.packing, config.global_microbatches
    lines = [
        f"model        {size / 1e6:.1f} M parameters",
        f"vocabulary   {corpus.vocabulary.num_text} text tokens, {corpus.vocabulary.num_units} units",
        *planned_start(config, corpus, module),
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
    if config.evaluation is not None:
        tasks = [read_task(path).header.task for path in config.evaluation.tasks]
        lines.append(f"evaluation   every {config.evaluation.every_steps} steps: {', '.join(tasks) or 'samples alone'}")
    lines += planned_memory(config, corpus, ranks, room_gib)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates = {str(dtype)[6:]: gemm_flops(device, dtype) / 1e9 for dtype in (torch.float32, torch.bfloat16)}
    lines.append(
        "this machine " + ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items()) + " (matrix product)"
    )
    return "\n".join(lines)


def planned_start(config: TrainConfig, corpus: TrainingData, module: nn.Module) -> list[str]:
    """What a run would make or read before its first step: its tokenizer, and the weights that it starts from.

    Raises:
        ConfigError, DataError: they are missing, or do not fit; see `check_weights`.
    """
    from model.data.text_tokenizer import UntrainedTokenizer
    from model.training.first_weights import check_weights
    from model.training.storage.place import RunPlace
    from model.training.storage.stores import checkpoints_of

    lines = []
    if isinstance(corpus.tokenizer, UntrainedTokenizer):
        size, path = corpus.tokenizer.size, config.data.tokenizer.path
        lines.append(f"tokenizer    {path} is not there: the run trains it, with at most {size} tokens")
    if config.init_from:
        newest = checkpoints_of(RunPlace(config.output_dir)).latest()
        start = check_weights(module, config.init_from, corpus) if newest is None else f"not read: there is {newest}"
        lines.append(f"init_from    {start}")
    return lines


def _fields() -> str:
    from model.training.config import TrainConfig

    return as_help(TrainConfig)


def planned_memory(config: TrainConfig, corpus: TrainingData, ranks: int, room_gib: float | None) -> list[str]:
    """Memory of a rank, part by part.

    Raises:
        ConfigError: it is more than there is.
    """
    import torch

    from model.cost.memory import MemoryPlan, memory_by_part

    plan = MemoryPlan(
        elements=config.packing.elements,
        latents=config.packing.latents,
        bf16=config.precision == "bf16",
        recompute=config.recompute is True,
        shards=min(config.sharding.group or ranks, ranks),
        muon=config.optimiser.kind == "muon",
        keeps_gathered=config.sharding.after_forward == "keep",
        narrow=config.sharding.gather == "bf16",
        compiled=config.compile,
        accumulates=config.global_microbatches > ranks and config.sharding.reduce == "step",
    )
    parts = {
        name: size / 2**30
        for name, size in memory_by_part(config.network.with_vocabulary(corpus.vocabulary), plan).items()
    }
    total = sum(parts.values())
    lines = [
        f"memory       {total:.1f} GiB on each of {ranks} {'rank' if ranks == 1 else 'ranks'} at the peak of a step"
    ]
    lines += [f"             {size:6.2f} GiB {name}" for name, size in parts.items()]
    if room_gib is None and torch.cuda.is_available():
        room_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    if room_gib is not None and total > room_gib:
        detail = ", ".join(f"{name} {size:.1f}" for name, size in parts.items())
        raise ConfigError(
            f"a rank would need {total:.1f} GiB ({detail}) and has {room_gib:.1f}: use more ranks, recompute: true, "
            "or a smaller packing"
        )
    return lines


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or with --dry-run say what training would take."""
    parser = Parser(__doc__, reference=_fields)
    parser.add_argument("config", help="a file of configs/train/, or the folder of a run that goes on")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="fields to set, read as YAML")
    parser.add_argument(
        "--shards",
        metavar="INDEX",
        help="speech shards in place of those that the configuration names, where it names one set",
    )
    parser.add_argument("--dry-run", action="store_true", help="print sizes, data and budget, and stop")
    parser.add_argument(
        "--ranks", type=count, metavar="N", help="with --dry-run: plan memory for so many (default: WORLD_SIZE, or 1)"
    )
    parser.add_argument(
        "--room", type=positive, metavar="GIB", help="with --dry-run: memory of a rank (default: the GPU's)"
    )
    given = parser.parse_args(arguments)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun dies of SIGUSR1 and SIGKILL without a word to its ranks; before
        end_with_parent(
            signal.SIGTERM
        )  # torch is loaded, for a rank that did not notice waits for a store that is gone
    begin(f"training {given.config}")
    from model.training.config import load_train_config, on_shards

    config = load_train_config(given.config, given.overrides)
    if given.shards:
        config = on_shards(config, given.shards)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("model").setLevel(config.log.level.upper())  # not the root's: torch informs of its caches at exit
    if given.dry_run:
        print(describe(config, given.ranks or int(os.environ.get("WORLD_SIZE", "1")), given.room))
        return 0
    from model.training.loop import train

    if config.evaluation is None:
        return train(config)
    from model.evaluation.evaluator import make_evaluator

    return train(config, make_evaluator)


if __name__ == "__main__":
    sys.exit(main())
