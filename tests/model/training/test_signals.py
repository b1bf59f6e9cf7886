"""SIGINT, SIGTERM and SIGUSR1 at any moment of a run: it ends within seconds, keeps its steps and leaves no process behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from model.data.lanes import Lane
from model.data.sources import TrainingData
from model.monitor.metrics import read_rows
from model.train import main
from model.training import checkpoint
from model.training import run as steps
from model.training.optimisation.optim import Optimisers
from model.training.run import Run
from schemas.errors import ExitCode
from tests.model.training.training_runs import (
    TORCHRUN,
    checkpoints,
    run,
    run_document,
    started,
    trajectory,
    wait_until,
    write_run,
)
from tests.schemas.commands.stuck import STUCK

STEPS = 6
AT = 3
"""The step in which a signal comes, where there are steps."""
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


def document_of(data: Path, output: Path, workers: int = 0) -> dict[str, Any]:
    """A run that saves by itself only at its end."""
    document = run_document(data, output)
    document["budget"] = {"steps": STEPS}
    document["checkpoint"] = {"keep": 1}
    document["data"]["workers"] = workers
    document["validation"] = {"every_steps": AT, "batches": 1}
    return document


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main([str(write_run(document_of(data, folder / "run"), folder / "run.yaml"))]) == 0
    return trajectory(folder / "run")


PHASES: dict[str, tuple[Any, str, int, list[int]]] = {
    "start": (TrainingData, "__init__", 1, []),
    "first batch": (Lane, "next", 1, []),
    "waiting for data": (Lane, "next", 4 * (AT - 1) + 3, [AT - 1]),
    "step": (Optimisers, "step", AT, [AT]),
    "validation": (Run, "validate", 2, [AT]),
    "saving": (checkpoint, "dcp_save", 1, [AT]),
}
"""Where the signal comes: (owner, function, at which call of it, checkpoints that there are afterwards)."""


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_at_any_moment(
    phase: str,
    number: signal.Signals,
    data: Path,
    undisturbed: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, name, call, saved = PHASES[phase]
    original: Callable[..., Any] = getattr(owner, name)
    calls = []

    def signalled(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*arguments, **options)

    document = document_of(data, tmp_path / "run")
    if phase == "saving":
        document["checkpoint"]["every_steps"] = AT
    config = str(write_run(document, tmp_path / "run.yaml"))
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, signalled)
        start = time.monotonic()
        assert main([config]) == ExitCode.TRY_AGAIN
    assert time.monotonic() - start < 20
    assert [step for step, _ in checkpoints(tmp_path / "run" / "checkpoints")] == saved
    assert main([config]) == 0
    assert trajectory(tmp_path / "run") == undisturbed


def test_an_error_keeps_the_steps_before_it(
    data: Path, undisturbed: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While data is read the weights are whole and are saved; within an update they are not, and are not."""
    config = str(write_run(document_of(data, tmp_path / "run"), tmp_path / "run.yaml"))
    for owner, name, call, saved in (
        (Lane, "next", 4 * (AT - 1) + 3, [AT - 1]),
        (steps, "accumulate", 2, [AT]),  # the batches taken, not used
        (Optimisers, "step", 2, [AT + 1]),
        (Optimisers, "zero_grad", 2, [AT + 1]),
    ):
        calls = []
        original = getattr(owner, name)

        def failing(*arguments: Any, original: Any = original, calls: list[int] = calls, call: int = call) -> Any:
            calls.append(1)
            if len(calls) == call:
                raise ZeroDivisionError
            return original(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, failing)
            with pytest.raises(ZeroDivisionError):
                main([config])
        assert [step for step, _ in checkpoints(tmp_path / "run" / "checkpoints")] == saved
    assert main([config]) == 0
    assert trajectory(tmp_path / "run") == undisturbed


@pytest.mark.parametrize(("phase", "saved"), [("step", AT), ("zero_grad", AT), ("validate", AT)])
def test_a_loader_killed_while_the_trainer_computes(
    phase: str,
    saved: int,
    data: Path,
    undisturbed: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the kernel does where memory runs out: the step is made and saved, one sentence, to be tried again."""
    config = str(write_run(document_of(data, tmp_path / "run", workers=1), tmp_path / "run.yaml"))
    owner: type = Run if phase == "validate" else Optimisers
    original = getattr(owner, phase)
    before = set(multiprocessing.active_children())
    calls = []

    def killing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == (2 if phase == "validate" else AT):
            (worker,) = set(multiprocessing.active_children()) - before
            worker.kill()
            os.waitid(
                os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT
            )  # ended with all its threads, and not yet collected
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(owner, phase, killing)
        assert main([config]) == ExitCode.TRY_AGAIN
    said = capsys.readouterr().err
    assert "no batch came from the loader's processes" in said
    assert "Traceback" not in said
    assert [step for step, _ in checkpoints(tmp_path / "run" / "checkpoints")] == [saved]
    assert main([config]) == 0
    assert trajectory(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_loader_workers_end_with_their_trainer(number: signal.Signals, data: Path, tmp_path: Path) -> None:
    """Ctrl-C reaches every process of a terminal's job, as here; SIGKILL reaches the trainer alone."""
    document = document_of(data, tmp_path / "run", workers=2)
    document["budget"] = {"steps": 10_000}
    config = write_run(document, tmp_path / "run.yaml")
    with started(config) as ranks:
        assert wait_until(lambda: len(read_rows(tmp_path / "run" / "metrics.jsonl")) >= 2), ranks.output()
        trainer = psutil.Process(ranks.processes[0].pid)
        workers = trainer.children()
        assert len(workers) >= 2
        for process in [*workers, trainer] if number == signal.SIGINT else [trainer]:
            process.send_signal(number)
        assert ranks.wait(60) == [75 if number == signal.SIGINT else -number], ranks.output()
        assert "Traceback" not in ranks.output()
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive
    steps = len(read_rows(tmp_path / "run" / "metrics.jsonl"))
    saved = [step for step, _ in checkpoints(tmp_path / "run" / "checkpoints")]
    assert saved == ([steps] if number == signal.SIGINT else [])


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGUSR1])
def test_torchrun_ends_with_all_its_ranks(number: signal.Signals, data: Path, tmp_path: Path) -> None:
    """torchrun hands SIGINT and SIGTERM on; of SIGUSR1 it dies, and its ranks take that for SIGTERM."""
    document = document_of(data, tmp_path / "run", workers=1)
    document["budget"] = {"steps": 10_000}
    config = write_run(document, tmp_path / "run.yaml")
    log = tmp_path / "log"
    with log.open("w") as file:
        agent = subprocess.Popen([*TORCHRUN, str(config)], stdout=file, stderr=file, start_new_session=True)
    rows = tmp_path / "run" / "metrics.jsonl"
    assert wait_until(lambda: len(read_rows(rows)) >= 2, 120), log.read_text()
    family = psutil.Process(agent.pid).children(recursive=True)
    assert len(family) >= 4, "two ranks and a loader each"
    agent.send_signal(number)
    agent.wait(60)
    _, alive = psutil.wait_procs(family, timeout=60)
    for process in alive:
        process.kill()
    assert not alive
    assert [step for step, _ in checkpoints(tmp_path / "run" / "checkpoints")] == [len(read_rows(rows))]


def test_a_step_that_hangs_in_foreign_code_is_ended() -> None:
    """A collective whose peer is gone never lets Python run a handler; the count goes on without it."""
    code = STUCK + (
        "import model.training.signals as signals\nsignals.GRACE = 0.5\n"
        "with signals.Signals(lambda: False):\n    stick(signal.SIGINT)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == ExitCode.TRY_AGAIN
    assert "within a step that did not end" in done.stderr


def test_a_second_training_in_the_folder_is_refused_on_every_rank(data: Path, tmp_path: Path) -> None:
    document = document_of(data, tmp_path / "run") | {"budget": {"steps": 100_000}}
    first, second = (write_run(document, tmp_path / f"{name}.yaml") for name in ("first", "second"))
    with started(first) as running:
        assert wait_until(lambda: bool(read_rows(tmp_path / "run" / "metrics.jsonl"))), running.output()
        said = run(second, world=2, expect=ExitCode.CONFIGURATION)
        assert "trains there already" in said
        assert "Traceback" not in said
        assert running.processes[0].is_alive()
    run(first, overrides=["budget.steps=1"])  # what was killed keeps nobody out
