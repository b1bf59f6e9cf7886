"""The training loop: step, validate, save, and stop when the budget is used up or a signal comes."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import yaml

from model.data.sources import TrainingData
from model.monitor.boards import Board, TensorBoard, WeightsAndBiases
from model.monitor.metrics import Metrics, ProgressBar, read_rows, summary
from model.monitor.profiling import StepProfiler
from model.monitor.rows import LogRow
from model.training.config import TrainConfig
from model.training.distributed import Ranks, ranks
from model.training.memory import steady_memory
from model.training.optimisation.step import Pending
from model.training.parts import keep_boundaries, keep_parts, with_known_boundaries, with_own_parts
from model.training.run import NonFiniteError, Run
from model.training.signals import Signals
from model.training.storage.place import RunPlace
from model.training.storage.stores import CheckpointError
from schemas.commands.cli import writable_folder
from schemas.errors import ConfigError, ExitCode
from schemas.files import whole_file

log = logging.getLogger(__name__)

COLLECT_EVERY = 50
"""Steps between two collections of garbage."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What an evaluation found."""

    row: LogRow = field(default_factory=dict)
    """Columns for the step's row."""
    sounds: dict[str, np.ndarray] = field(default_factory=dict)
    """float32 at 16 kHz, by name."""


MakeEvaluator = Callable[[Run], Callable[[], Evaluated] | None]
"""Of a run that is about to begin or to go on; None: it is not evaluated."""


def train(config: TrainConfig, make_evaluator: MakeEvaluator | None = None) -> ExitCode:
    """Run `config` to the end of its budget, or until a signal. Returns DONE or TRY_AGAIN.

    `make_evaluator` (`model.evaluation.evaluator`) is needed where the configuration has an evaluation. However the run ends, no
    process of it is left, and a checkpoint of the last step where that can be written.

    Raises:
        ConfigError, ShardError, CheckpointError, NonFiniteError: each with a sentence to act on.
        Stopped: a signal came before the first step, or while one process alone waited for data.
    """
    place = RunPlace(config.output_dir)
    if place.url is None:
        writable_folder(place.folder, make=False)
    if config.evaluation is not None and make_evaluator is None:
        raise ConfigError("this command does not evaluate while it trains", "set evaluation: null")
    if config.threads:
        torch.set_num_threads(config.threads)
    with ranks(config.timeouts) as group, collected_by_hand(), deterministic(config.deterministic):
        if group.device.type == "cpu":
            steady_memory()
        corpus = open_corpus(config, group, place)
        with _alone_in(place, group):
            return _run(Run(_with_boundaries(config, corpus), corpus, group), make_evaluator)


def _run(run: Run, make_evaluator: MakeEvaluator | None) -> ExitCode:
    group = run.ranks
    try:
        run.resume()
        evaluate = make_evaluator(run) if make_evaluator is not None else None
        with Signals(lambda: group.world == 1 and run.waits_for_data) as signals:
            _follow(run, signals, evaluate)
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


@contextmanager
def _alone_in(place: RunPlace, group: Ranks) -> Iterator[None]:
    """Raises ConfigError on all ranks where another training has the folder: both would write its rows and checkpoints."""
    with place.taken() if group.is_main else nullcontext("") as mine:
        owner = group.gather(mine)[0]
        if owner:
            raise ConfigError(
                f"{place}: {owner} trains there already", "wait for it or end it, or set another output_dir"
            )
        yield


def _with_boundaries(config: TrainConfig, corpus: TrainingData) -> TrainConfig:
    patches = with_known_boundaries(config.patches, RunPlace(config.output_dir).folder, corpus.vocabulary)
    return config if patches == config.patches else config.with_updates(patches=patches.model_dump())


def _follow(run: Run, signals: Signals, evaluate: Callable[[], Evaluated] | None) -> None:
    """The steps, until the budget is used up or a signal came to some rank. Rows are written as soon as their numbers are there:
    a step late on a device, but before anything that stands on them is done."""
    report, clock, group, profiler = Report(run), Clock(run.config, run), run.ranks, profiler_of(run)
    waiting: list[Pending] = []
    stop, first = False, True
    try:
        while not run.finished and not stop:
            profiler.begin(run.steps + 1)
            waiting.append(run.launch())
            profiler.end(run.steps)
            validate, evaluates = clock.validation_due(), evaluate is not None and clock.evaluation_due()
            while waiting and (len(waiting) > 1 or validate or evaluates or waiting[0].ready):
                row = waiting.pop(0).row()
                if not waiting and validate:
                    row |= run.validate()
                found = Evaluated()
                if not waiting and evaluate is not None and evaluates:
                    group.expect_within(run.config.timeouts.start)
                    found = evaluate()
                    group.expect_within(run.config.timeouts.start if first else run.config.timeouts.step)
                report.write(row | found.row)
                report.play(found.sounds, row["step"])
            stop, save = clock.agree(group, signals.received)
            if stop:
                signals.in_time()
            if save or stop or run.finished:
                while waiting:
                    report.write(waiting.pop(0).row())
                group.expect_within(run.config.timeouts.start)  # all ranks wait until the slowest has written its share
                run.save()
                group.expect_within(run.config.timeouts.start if first else run.config.timeouts.step)
                clock.saved()
                stop = stop or signals.anywhere(group)  # one that came while saving need not wait for another step
            if first:
                group.expect_within(run.config.timeouts.step)
                gc.freeze()  # what a run is made of stays for good: no collection needs to walk through it
                first = False
            if run.steps % COLLECT_EVERY == 0:
                gc.collect()
            run.prefetch()
    except BaseException:
        if run.worth_saving:
            for step in waiting:
                report.write(step.row())
        raise
    finally:
        profiler.close()
    if not run.finished:
        log.info("stopped at step %d by a signal; run the same command to go on", run.steps)
    report.close()


@contextmanager
def collected_by_hand() -> Iterator[None]:
    """Python's collector stops a rank whenever it likes, and all others wait for it; here it runs at the same step on each."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if before:
            gc.enable()


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """torch's deterministic algorithms alone, where they are wanted."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with fixed workspaces alone
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def profiler_of(run: Run) -> StepProfiler:
    """What the run is to be profiled with; steps that never come where it is not."""
    config, ranks = run.config.log.profile, run.ranks
    if config is None or not (ranks.is_main or config.all_ranks):
        return StepProfiler(run.folder, 0, 0, False, ranks.rank, ranks.device)
    last = config.first + config.steps - 1
    return StepProfiler(run.folder, config.first, last, config.memory, ranks.rank, ranks.device)


def boards_of(run: Run) -> list[Board]:
    """Where the run is shown beside its own files.

    Raises:
        ConfigError: see `WeightsAndBiases`.
    """
    config, boards = run.config.log, list[Board]()
    if config.tensorboard:
        boards.append(TensorBoard(run.folder, run.steps))
    if config.wandb is not None:
        settings = run.config.model_dump(mode="json")
        boards.append(
            WeightsAndBiases(run.folder, config.wandb.project, config.wandb.name, config.wandb.offline, settings)
        )
    return boards


def open_corpus(config: TrainConfig, group: Ranks, place: RunPlace) -> TrainingData:
    """The data; the main rank goes first, since it may have a tokenizer to train."""
    if not group.is_main:
        group.barrier()
    place.fetch(parts_only=not group.is_main)
    data = with_own_parts(config.data, place.folder)
    corpus = TrainingData(data)
    if group.is_main:
        keep_parts(place.folder, data)
        keep_boundaries(config.patches, place.folder)
        place.push()  # for the machines of other ranks
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

    def evaluation_due(self) -> bool:
        """Every so many steps, and at the last."""
        config, step = self._config.evaluation, self._run.steps
        return config is not None and (step % config.every_steps == 0 or self._run.finished)

    def agree(self, group: Ranks, signalled: bool) -> tuple[bool, bool]:
        """Whether any rank was signalled, and whether a checkpoint is due: by steps, or by the main rank's clock."""
        config = self._config.checkpoint
        late = config.every_seconds is not None and time.monotonic() - self._saved_at >= config.every_seconds
        signals, lates = group.sum([float(signalled), float(late and group.is_main)])
        due = config.every_steps is not None and self._run.steps % config.every_steps == 0
        return signals > 0, due or lates > 0

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
            run.folder.mkdir(parents=True, exist_ok=True)
            self._metrics = Metrics(run.folder, first_step=run.steps, boards=boards_of(run))
            self._progress = ProgressBar(show=config.log.progress)
            with whole_file(run.folder / "config.yaml") as partial:  # a stop must not cost what the run goes on with
                partial.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Add a step's row to metrics.jsonl and the boards, and show it with the time that is left."""
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

    def play(self, sounds: dict[str, np.ndarray], step: int) -> None:
        """Hand generated speech, float32 at 16 kHz, to the boards that play it."""
        for name, samples in sounds.items():
            if self._metrics is not None:
                self._metrics.sound(name, samples, step)

    def close(self) -> None:
        """Print one line per modality."""
        if self._metrics is None or self._progress is None:
            return
        self._metrics.close()
        self._progress.close()
        print(summary(read_rows(self._metrics.path)), flush=True)
