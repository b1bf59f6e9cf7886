"""One logger for all that this project says to an operator: the driver's goes to the console, a worker's to a file of its own.

    OUTPUT/control/logs/<run>/<pool>-<host>-<process>.log     where the output is a folder
    <Ray's log folder of the node>/lst/<run>/...              where it is an object store, to which nothing can be appended

Ray's dashboard and `ray logs` show the second; nothing but a browser or `tail -f` is needed for the first. A worker never prints:
what libraries print there stays in Ray's own `worker-*.out`.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG = logging.getLogger("lst")
FORMAT = "%(asctime)s %(levelname)s %(stage)s %(partition)s: %(message)s"
FILE_BYTES = 10_000_000
"""A worker's log begins anew at this size; the one before it is kept."""
KEPT_RUNS = 10
"""Runs whose logs stay in an output."""
NOTHING = ("-", "-")
_work: ContextVar[tuple[str, str]] = ContextVar("work", default=NOTHING)


@contextmanager
def working_on(stage: str, partition: str) -> Iterator[None]:
    """All that is logged in the body says this stage and partition."""
    token = _work.set((stage, partition))
    try:
        yield
    finally:
        _work.reset(token)


class Context(logging.Filter):
    """Gives every record the stage and the partition that are being worked on."""

    def filter(self, record: logging.LogRecord) -> bool:
        """True; the record has `stage` and `partition`."""
        record.stage, record.partition = _work.get()
        return True


class Console(logging.Handler):
    """Records on stderr as it is now, above a progress bar where there is one; with the time where nobody looks on."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        text = self.format(record)
        if not sys.stderr.isatty():
            text = f"{self.formatter_of_time.formatTime(record, '%H:%M:%S')} {text}"
        if "tqdm" in sys.modules:
            sys.modules["tqdm"].tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)
        sys.stderr.flush()

    formatter_of_time = logging.Formatter()


def log_to_console() -> None:
    """What this process logs is shown to whoever started it."""
    if not any(isinstance(handler, Console) for handler in LOG.handlers):
        LOG.addHandler(Console())
    LOG.setLevel(logging.INFO)


def log_to_file(output: str, run_id: str, pool: str) -> Path:
    """What this worker logs, with warnings of libraries, goes to its file and nowhere else; the file."""
    folder = log_folder(output, run_id)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{pool}-{socket.gethostname()}-{os.getpid()}.log"
    handler = RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=1, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.addFilter(Context())
    root = logging.getLogger()
    for old in [*root.handlers, *LOG.handlers]:
        if isinstance(old, RotatingFileHandler):  # of another run, or of another stage in this process
            old.close()
        root.removeHandler(old)
        LOG.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    LOG.setLevel(logging.INFO)
    logging.captureWarnings(True)
    return path


@contextmanager
def without_lines(pattern: str) -> Iterator[None]:
    """What C++ writes to stderr in the body comes after it, without the lines that hold this regular expression."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            written.seek(0)
            for line in written:
                if not re.search(pattern.encode(), line):
                    os.write(2, line)


def log_folder(output: str, run_id: str) -> Path:
    """Where the workers of a run on this node log."""
    if "://" not in output:
        return Path(output) / "control" / "logs" / run_id
    return _ray_logs() / "lst" / run_id


def _ray_logs() -> Path:
    if "ray" in sys.modules:
        node = sys.modules["ray"]._private.worker._global_node
        if node is not None:
            return Path(node.get_logs_dir_path())
    return Path(tempfile.gettempdir())


def forget_old_logs(output: str) -> None:
    """Keep the logs of the last few runs."""
    folder = Path(output) / "control" / "logs"
    if "://" in output or not folder.is_dir():
        return
    runs = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for run in runs[KEPT_RUNS - 1 :]:
        shutil.rmtree(run, ignore_errors=True)
