"""The training loop: step, validate, save, and stop when the budget is used up or a signal comes."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from model.data.sources import Corpus
from model.training.checkpoint import CheckpointError
from model.training.config import TrainConfig
from model.training.distributed import Ranks, ranks
from model.training.metrics import Metrics, Progress, read_rows, summary
from model.training.parts import keep_parts, with_own_parts
from model.training.run import NonFiniteError, Run
from model.training.signals import Signals
from schemas.cli import writable_folder
from schemas.errors import ExitCode

log = logging.getLogger(__name__)


def train(config: TrainConfig) -> ExitCode:
    """Run `config` to the end of its budget, or until a signal. Returns DONE or TRY_AGAIN.

    However it ends, no process of it is left, and a checkpoint of the last step where that can be written.

    Raises:
        ConfigError, ShardError, CheckpointError, NonFiniteError: each with a sentence to act on.
        Stopped: a signal came before the first step, or while one process alone waited for data.
    """
    writable_folder(Path(config.output_dir))
    if config.threads:
        torch.set_num_threads(config.threads)
    with ranks() as group:
        run = Run(config, open_corpus(config, group), group)
        try:
            run.resume()
            with Signals(lambda: group.world == 1 and run.waits_for_data) as signals:
                _follow(run, signals)
        except (CheckpointError, NonFiniteError):
            raise
        except BaseException:
            if group.world == 1 and run.worth_saving:  # several ranks write together, and one that raises is alone
                log.warning("saving step %d before ending", run.steps)
                run.save()
            raise
        finally:
            run.close()
    return ExitCode.DONE if run.finished else ExitCode.TRY_AGAIN


def _follow(run: Run, signals: Signals) -> None:
    """The steps, until the budget is used up or a signal came to some rank."""
    report, clock, group = Report(run), Clock(run.config, run), run.ranks
    stop = False
    while not run.finished and not stop:
        row = run.step()
        if clock.validation_due():
            row.update(run.validate())
        report.write(row)
        stop = signals.anywhere(group)
        if stop:
            signals.in_time()
        if clock.checkpoint_due(group) or stop or run.finished:
            run.save()
            clock.saved()
            stop = stop or signals.anywhere(group)  # one that came while saving need not wait for another step
    if not run.finished:
        log.info("stopped at step %d by a signal; run the same command to go on", run.steps)
    report.close()


def open_corpus(config: TrainConfig, group: Ranks) -> Corpus:
    """The data; the main rank goes first, since it may have a tokenizer to train."""
    folder = Path(config.output_dir)
    if not group.is_main:
        group.barrier()
    data = with_own_parts(config.data, folder)
    corpus = Corpus(data)
    if group.is_main:
        keep_parts(folder, data)
        group.barrier()
    return corpus


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
