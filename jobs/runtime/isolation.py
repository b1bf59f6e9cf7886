"""Taking a partition apart around the row that fails: here where a row raises, in child processes where it kills its worker."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool

from jobs.runtime.accounting import key_of, samples_by_key
from jobs.runtime.stages import build_stage
from pipeline.source.audio import SourceAudio
from pipeline.source.base import AudioReader
from pipeline.stage import Stage, StageResult
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.errors import CredentialsError, StorageError
from schemas.spec import PipelineSpec
from schemas.tables import Reject, RejectCode

TRACEBACK_CHARACTERS = 8_000
"""The end of a traceback, which says where it happened; a recursion without end would fill the table."""


def run_rows(stage: Stage, tables: Mapping[str, Sequence[Row]], audio: AudioReader, attempts: int) -> StageResult:
    """`stage.run(tables)`, where the rows that raise an exception become rejects (`stage_error`) with their traceback.

    Nothing is spent where nothing is raised. Otherwise halves are run again until the row stands alone, which is sound
    because a stage treats each input row on its own. A stage that is broken altogether rejects every row: the run is
    then ended by its rate of rejects.

    Raises:
        StorageError, CredentialsError: the source could not be read, which says nothing of the rows.
    """
    rows: list[Row] = []
    rejects: list[Reject] = []
    pending = [list(dict.fromkeys(key_of(row) for row in tables[stage.inputs[0]]))]
    whole = True
    while pending:
        part = pending.pop()
        try:
            result = stage.run(tables if whole else _only(tables, stage, set(part)), audio)
        except (StorageError, CredentialsError):  # nobody knows what the rows are; the partition waits
            raise
        except Exception as error:
            if len(part) > 1:
                middle = len(part) // 2
                pending += [part[middle:], part[:middle]]
            elif not part:
                raise
            else:
                seconds = samples_by_key(*tables.values()).get(part[0], 0) / SAMPLE_RATE
                rejects.append(failure(stage.name, part[0], error, attempts, seconds))
        else:
            rows.extend(result.rows)
            rejects.extend(result.rejects)
        whole = False
    return StageResult(rows=rows, rejects=rejects)


def failure(stage: str, key: str, error: Exception, attempts: int, seconds: float) -> Reject:
    """The reject of a row on which alone a stage raised an exception."""
    memory = isinstance(error, MemoryError)
    said = " ".join(str(error).split())[:300]
    return Reject(
        id=key,
        stage=stage,
        code="out_of_memory" if memory else "stage_error",
        detail=f"the stage {stage} failed on this row alone: {type(error).__name__}{': ' if said else ''}{said}",
        retriable=True,
        attempts=attempts + 1,
        seconds=seconds,
        traceback="".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:],
    )


def run_isolated(
    spec: PipelineSpec,
    stage: Stage,
    tables: Mapping[str, Sequence[Row]],
    attempts: int,
    limit: float,
    build: Callable[[str, PipelineSpec], Stage] = build_stage,
) -> StageResult:
    """The result of `stage.run(tables)`, with the rows that crash or hang a process rejected.

    Sound because a stage treats each input row on its own. `limit` is in seconds per child process, which makes its stage
    with `build`.
    """
    keys = list(dict.fromkeys(key_of(row) for row in tables[stage.inputs[0]]))
    rows: list[Row] = []
    rejects: list[Reject] = []
    pending = [keys]
    while pending:
        part = pending.pop()
        outcome = _run_child(spec, stage.name, _only(tables, stage, set(part)), attempts, limit, build)
        if isinstance(outcome, StageResult):
            rows.extend(outcome.rows)
            rejects.extend(outcome.rejects)
        elif len(part) > 1:
            middle = len(part) // 2
            pending += [part[:middle], part[middle:]]
        else:
            rejects.append(_reject(stage.name, part[0], outcome, attempts, tables, limit))
    return StageResult(rows=rows, rejects=rejects)


def _run_child(
    spec: PipelineSpec,
    name: str,
    tables: Mapping[str, Sequence[Row]],
    attempts: int,
    limit: float,
    build: Callable[[str, PipelineSpec], Stage],
) -> StageResult | RejectCode:
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    try:
        future = pool.submit(_child, spec, name, tables, attempts, build)
        return future.result(timeout=limit)
    except BrokenProcessPool:
        return "worker_crashed"
    except FutureTimeoutError:
        for process in list(pool._processes.values()):
            process.kill()
        return "timeout"
    except MemoryError:
        return "out_of_memory"
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _child(
    spec: PipelineSpec,
    name: str,
    tables: Mapping[str, Sequence[Row]],
    attempts: int,
    build: Callable[[str, PipelineSpec], Stage],
) -> StageResult:
    stage = build(name, spec)
    stage.open()
    return run_rows(stage, tables, SourceAudio(spec.source.uri), attempts)


def _only(tables: Mapping[str, Sequence[Row]], stage: Stage, keys: set[str]) -> dict[str, Sequence[Row]]:
    first = stage.inputs[0]
    return {
        name: [row for row in rows if key_of(row) in keys] if name == first else rows for name, rows in tables.items()
    }


def _reject(
    stage: str, key: str, code: RejectCode, attempts: int, tables: Mapping[str, Sequence[Row]], limit: float
) -> Reject:
    what = {
        "worker_crashed": "the process died while working on this row alone (a crash in native code, or killed for memory)",
        "timeout": f"this row alone took longer than {limit:.0f} s (resources.{stage}.timeout_minutes)",
        "out_of_memory": "this row alone needed more memory than there is",
    }[code]
    seconds = samples_by_key(*tables.values()).get(key, 0) / SAMPLE_RATE
    return Reject(id=key, stage=stage, code=code, detail=what, retriable=True, attempts=attempts + 1, seconds=seconds)
