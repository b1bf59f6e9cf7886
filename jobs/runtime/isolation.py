"""Taking a partition apart around the row that fails: here where a row raises, in child processes where it kills its worker."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import psutil

from jobs.cluster.limits import LOOK_SECONDS, limit_libraries
from jobs.runtime.accounting import key_of, place_of, samples_by_key
from jobs.runtime.stages import build_stage
from pipeline.source.audio import SourceAudio
from pipeline.source.base import AudioReader
from pipeline.stage import Batched, Stage, StageResult
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.errors import CredentialsError, StorageError
from schemas.spec import PipelineSpec
from schemas.tables import Reject, RejectCode

OPEN_SECONDS = 900.0
"""A child that takes longer to load its model hangs."""
TRACEBACK_CHARACTERS = 8_000
"""The end of a traceback, which says where it happened; a recursion without end would fill the table."""


def run_rows(stage: Stage, tables: Mapping[str, Sequence[Row]], audio: AudioReader, attempts: int) -> StageResult:
    """`stage.run(tables)`, where the rows that raise an exception become rejects (`stage_error`) with their traceback.

    Nothing is spent where nothing is raised. Otherwise halves are run again until the row stands alone, which is sound
    because a stage treats each input row on its own. Where memory runs out, of the machine or of a device, the stage's
    batches are halved first, for good. A stage that is broken altogether rejects every row: the run is then ended by its
    rate of rejects.

    Raises:
        StorageError, CredentialsError: the source could not be read, which says nothing of the rows.
    """
    rows: list[Row] = []
    rejects: list[Reject] = []
    pending = [list(dict.fromkeys(key_of(row) for row in tables[stage.inputs[0]]))]
    everything = pending[0]
    while pending:
        part = pending.pop()
        try:
            whole = part is everything
            result = stage.run(tables if whole else _only(tables, stage, set(part)), audio)
        except (StorageError, CredentialsError):  # nobody knows what the rows are; the partition waits
            raise
        except Exception as error:
            if is_exhaustion(error) and isinstance(stage, Batched) and stage.halve_batch():
                release_memory()
                pending.append(part)
                continue
            if len(part) > 1:
                middle = len(part) // 2
                pending += [part[middle:], part[:middle]]
            elif not part:
                raise
            else:
                seconds = samples_by_key(*tables.values()).get(part[0], 0) / SAMPLE_RATE
                place = place_of(part[0], *tables.values())
                rejects.append(failure(stage.name, part[0], error, attempts, seconds, place))
        else:
            rows.extend(result.rows)
            rejects.extend(result.rejects)
    return StageResult(rows=rows, rejects=rejects)


EXHAUSTED = ("out of memory", "bad allocation", "std::bad_alloc", "failed to allocate", "alloc_failed")
"""What CUDA, cuBLAS, cuDNN, torch, CTranslate2, ONNX Runtime and the C++ library say where memory runs out."""


def is_exhaustion(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or of a device has run out."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in said for words in EXHAUSTED)
    )


def release_memory() -> None:
    """Give back what torch keeps of a device's memory for later."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class DiedError(RuntimeError):
    """A process ended while it worked on one thing."""

    def __init__(self, code: RejectCode, limit: float) -> None:
        super().__init__(_described(code, limit))
        self.code = code


def failure(stage: str, key: str, error: Exception, attempts: int, seconds: float, place: str = "") -> Reject:
    """The reject of a row on which alone a stage raised an exception or ended its process; `place` ends its sentence."""
    if isinstance(error, DiedError):
        return _lost(stage, key, error.code, str(error) + place, attempts, seconds)
    memory = is_exhaustion(error)
    said = " ".join(str(error).split())[:300]
    return Reject(
        id=key,
        stage=stage,
        code="out_of_memory" if memory else "stage_error",
        detail=f"the stage {stage} failed on this row alone: {type(error).__name__}{': ' if said else ''}{said}{place}",
        retriable=True,
        attempts=attempts + 1,
        seconds=seconds,
        traceback="".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:],
    )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on a row alone."""

    seconds: Callable[[float], float]
    """Seconds of work that a row of so many seconds of audio may take."""
    most_bytes: int = 0
    """Memory that its process may take; 0: any."""


def run_isolated(
    spec: PipelineSpec,
    stage: Stage,
    tables: Mapping[str, Sequence[Row]],
    attempts: int,
    limits: Limits,
    build: Callable[[str, PipelineSpec], Stage] = build_stage,
) -> StageResult:
    """The result of `stage.run(tables)`, with the rows that crash, hang or fill a process rejected.

    A child process, which makes its stage with `build`, goes through the rows one by one and says which it is at, so that a hang
    costs one row's time and nothing is guessed. A row that ends a child gets a second chance at the head of the next one, unless
    it was its time or its memory that ran out. Sound because a stage treats each input row on its own.

    Raises:
        StorageError, CredentialsError: as `run_rows`.
    """
    keys = list(dict.fromkeys(key_of(row) for row in tables[stage.inputs[0]]))
    lengths = samples_by_key(*tables.values())
    rows: list[Row] = []
    rejects: list[Reject] = []
    fresh = True
    while keys:
        with Child(f"the stage {stage.name}", _open_stage, (spec, stage.name, build), limits.most_bytes) as child:
            while keys:
                key = keys[0]
                seconds = limits.seconds(lengths.get(key, 0) / SAMPLE_RATE)
                outcome = child.ask((_only(tables, stage, {key}), attempts), seconds)
                if isinstance(outcome, StageResult):
                    rows.extend(outcome.rows)
                    rejects.extend(outcome.rejects)
                elif isinstance(outcome, Exception):  # of the storage: nobody knows what the rows are
                    raise outcome
                elif outcome == "worker_crashed" and not fresh:
                    fresh = True
                    break
                else:
                    rejects.append(_reject(stage.name, key, outcome, attempts, tables, seconds))
                keys.pop(0)
                fresh = not isinstance(outcome, StageResult)
                if fresh:
                    break
    return StageResult(rows=rows, rejects=rejects)


Work = Callable[[Any], Any]
"""What a child process does with a thing that it is sent."""


class Child:
    """A process that opens something once and then works on what it is sent."""

    def __init__(self, name: str, opener: Callable[..., Work], arguments: tuple[Any, ...], most_bytes: int) -> None:
        """`opener(*arguments)` is called there and gives what is called for each question; `name` says in messages what it is.
        `most_bytes`: memory that the process may take (0: any)."""
        self._name, self._most_bytes = name, most_bytes
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, opener, arguments), daemon=True)
        self._killed_for_memory = kills_for_memory()
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        """Once it is open.

        Raises:
            RuntimeError: it cannot be opened in a process of its own.
        """
        try:
            opened = self._answer(OPEN_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        if opened is not None:
            self.__exit__()
            if isinstance(opened, Exception):
                raise opened
            raise RuntimeError(f"{self._name} cannot be opened in a process of its own: {opened}")
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def ask(self, question: object, seconds: float) -> Any:
        """The answer, or the reject code of what became of the process."""
        try:
            self._pipe.send(question)
        except OSError:
            return self._death()
        return self._answer(seconds)

    def _answer(self, seconds: float) -> Any:
        until = time.monotonic() + seconds
        while True:
            left = max(until - time.monotonic(), 0.0)
            try:
                if self._pipe.poll(min(left, LOOK_SECONDS) if self._most_bytes else left):
                    return self._pipe.recv()
            except (EOFError, OSError):
                return self._death()
            if time.monotonic() >= until:
                return "timeout"
            if self._most_bytes and self._bytes() > self._most_bytes:
                return "out_of_memory"

    def _bytes(self) -> int:
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0

    def _death(self) -> RejectCode:
        self._process.join()
        by_kernel = self._process.exitcode == -signal.SIGKILL and kills_for_memory() > self._killed_for_memory
        return "out_of_memory" if by_kernel else "worker_crashed"


def _serve(pipe: Connection, opener: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
    try:
        work = opener(*arguments)
    except Exception as error:
        pipe.send(_portable(error))
        return
    pipe.send(None)
    while True:
        try:
            question = pipe.recv()
        except EOFError:  # the parent is gone
            return
        try:
            answer = work(question)
        except Exception as error:
            answer = _portable(error)
        pipe.send(answer)


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note, or its words where another process could not make it anew."""
    said = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(said)
    return error


def _open_stage(spec: PipelineSpec, name: str, build: Callable[[str, PipelineSpec], Stage]) -> Work:
    limit_libraries(spec.resource(name).threads)
    stage = build(name, spec)
    stage.open()
    audio = SourceAudio(spec.source.uri)
    return lambda question: run_rows(stage, question[0], audio, question[1])


def kills_for_memory() -> int:
    """Processes that the kernel has killed for want of memory since the machine was started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _only(tables: Mapping[str, Sequence[Row]], stage: Stage, keys: set[str]) -> dict[str, Sequence[Row]]:
    first = stage.inputs[0]
    return {
        name: [row for row in rows if key_of(row) in keys] if name == first else rows for name, rows in tables.items()
    }


def _reject(
    stage: str, key: str, code: RejectCode, attempts: int, tables: Mapping[str, Sequence[Row]], limit: float
) -> Reject:
    seconds = samples_by_key(*tables.values()).get(key, 0) / SAMPLE_RATE
    return _lost(stage, key, code, _described(code, limit) + place_of(key, *tables.values()), attempts, seconds)


def _lost(stage: str, key: str, code: RejectCode, detail: str, attempts: int, seconds: float) -> Reject:
    return Reject(id=key, stage=stage, code=code, detail=detail, retriable=True, attempts=attempts + 1, seconds=seconds)


def _described(code: RejectCode, limit: float) -> str:
    return {
        "worker_crashed": "the process died while working on this row alone (a crash in native code, or killed for memory)",
        "timeout": f"this row alone took longer than {limit:.0f} s (resources.<pool>.timeout_minutes and timeout_factor)",
        "out_of_memory": "this row alone needed more memory than there is (or than resources.<pool>.memory_gib)",
    }[code]
