"""Train a model.

    python -m model.train configs/train/tiny.yaml                             one process
    python -m model.train configs/train/tiny.yaml seed=2 optimiser.lr=1e-3    fields by their dotted name
    torchrun --nproc-per-node 8 -m model.train configs/train/1b.yaml          eight processes, sharded
    python -m model.train configs/train/tiny.yaml --dry-run                   sizes, data and budget; nothing is trained

Run the same command again to go on from the last checkpoint, on as many processes as you like. SIGTERM and SIGUSR1 write a
checkpoint and end the run with exit code 75 (try again).
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import torch
import yaml

from model.checkpoint import CheckpointError
from model.config import ModelConfig
from model.distributed import Ranks, ranks
from model.metrics import Metrics, Progress, gemm_flops, read_rows, summary
from model.shards import ShardError
from model.sources import Corpus
from model.train_config import TrainConfig, load_train_config
from model.training import NonFiniteError, Run
from schemas.config import ConfigError

log = logging.getLogger(__name__)

TRY_AGAIN = 75
"""Exit code of a run that was asked to stop before its end (EX_TEMPFAIL): schedulers requeue on it."""


def train(config: TrainConfig) -> int:
    """Run `config` to the end of its budget, or until a signal. Returns the exit code: 0, or TRY_AGAIN.

    Raises:
        ConfigError, ShardError, CheckpointError, NonFiniteError: each with a sentence to act on.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    with ranks() as group, Signals() as signals:
        run = Run(config, open_corpus(config, group), group)
        run.resume()
        report = Report(run)
        clock = Clock(config, run)
        while not run.finished:
            row = run.step()
            if clock.validation_due():
                row.update(run.validate())
            report.write(row)
            stop = signals.anywhere(group)
            if clock.checkpoint_due(group) or stop or run.finished:
                run.save()
                clock.saved()
            if stop and not run.finished:
                log.info("stopped at step %d by a signal; run the same command to go on", run.steps)
                break
        report.close()
        run.close()
        return 0 if run.finished else TRY_AGAIN


def open_corpus(config: TrainConfig, group: Ranks) -> Corpus:
    """The data; the main rank goes first, since it may have a tokenizer to train."""
    if not group.is_main:
        group.barrier()
    corpus = Corpus(config.data)
    if group.is_main:
        group.barrier()
    return corpus


class Signals:
    """SIGTERM and SIGUSR1 as a flag that all ranks agree on."""

    def __init__(self) -> None:
        self._received = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Ray Train calls from another
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True

    def anywhere(self, group: Ranks) -> bool:
        """Whether any rank was signalled."""
        return group.sum([float(self._received)])[0] > 0


class Clock:
    """When to validate and when to save."""

    def __init__(self, config: TrainConfig, run: Run) -> None:
        self._config, self._run, self._saved_at = config, run, time.monotonic()

    def validation_due(self) -> bool:
        """At the first step, every so many, and the last."""
        config, step = self._config.validation, self._run.steps
        return config is not None and (step == 1 or step % config.every_steps == 0 or self._run.finished)

    def checkpoint_due(self, group: Ranks) -> bool:
        """By steps, or by the main rank's clock."""
        config = self._config.checkpoint
        if config.every_steps and self._run.steps % config.every_steps == 0:
            return True
        if config.every_seconds is None:
            return False
        late = group.is_main and time.monotonic() - self._saved_at >= config.every_seconds
        return group.sum([float(late)])[0] > 0

    def saved(self) -> None:
        """The clock starts again."""
        self._saved_at = time.monotonic()


class Report:
    """What the main rank tells the world."""

    def __init__(self, run: Run) -> None:
        config = run.config
        self._run, self._begun, self._first = run, time.monotonic(), run.progress
        self._metrics = self._progress = None
        if run.ranks.is_main:
            self._metrics = Metrics(run.folder, first_step=run.steps, tensorboard=config.log.tensorboard)
            self._progress = Progress(show=config.log.progress)
            (run.folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))

    def write(self, row: dict[str, Any]) -> None:
        """Record a step."""
        if self._metrics is None or self._progress is None:
            return
        self._metrics.write(row)
        done = self._run.progress - self._first
        elapsed = time.monotonic() - self._begun
        left = elapsed / done * max(0.0, 1 - self._run.progress) if done else None
        limit = self._run.config.budget.seconds
        if limit is not None and left is not None:
            left = min(left, max(0.0, limit - self._run.consumed["seconds"]))
        self._progress.update(row, self._run.progress, left)

    def close(self) -> None:
        """Print one line per modality."""
        if self._metrics is None or self._progress is None:
            return
        self._metrics.close()
        self._progress.close()
        print(summary(read_rows(self._metrics.path)), flush=True)


def describe(config: TrainConfig) -> str:
    """What `--dry-run` prints: sizes, data, budget, and the machine's rates.

    Raises:
        ConfigError, ShardError: what a run would raise before its first step.
    """
    from model.lst import build_model

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


def main(arguments: list[str] | None = None) -> int:
    """The command line; errors that a user can mend are one sentence and exit code 2 (settings, data) or 1."""
    parser = argparse.ArgumentParser(
        prog="python -m model.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="a file of configs/train/")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="fields to set, read as YAML")
    parser.add_argument("--dry-run", action="store_true", help="print sizes, data and budget, and stop")
    given = parser.parse_args(arguments)
    try:
        config = load_train_config(given.config, given.overrides)
        logging.basicConfig(level=config.log.level.upper(), format="%(message)s", stream=sys.stderr)
        if given.dry_run:
            print(describe(config))
            return 0
        return train(config)
    except (ConfigError, ShardError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (CheckpointError, NonFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
