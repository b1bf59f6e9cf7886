"""The sentence and the exit code of an error that a user can mend, out of the wrapping of the process it happened in."""

from __future__ import annotations

import errno
import re
import sys

from schemas.errors import ExitCode, StorageError, UserError
from schemas.storage.retry import CLIENTS, WITHOUT

INSTALL = ".venv/bin/uv pip install -c constraints.hashes.txt -e"
"""Installs an extra of the checkout that one stands in, as `make setup` installs the rest."""
EXTRAS = {
    "whisperx": "whisperx",
    "s3fs": "s3",
    "fairseq": "fairseq",
    "lm_eval": "lm-eval",
    "lhotse": "lhotse",
    "uroman": "romanise",
}
"""Package -> the extra of ours that brings it."""


def explain(error: BaseException) -> tuple[ExitCode, str] | None:
    """Exit code and sentence of an error, out of the wrapping of the process it happened in; None: a fault of this code."""
    error = _stop_behind(error) or _cause(error)
    if isinstance(error, UserError):
        return error.code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.TRY_AGAIN, f"stopped by {error.args[0] if error.args else 'SIGINT'}; run it again to go on"
    if isinstance(error, OSError):
        return _of_file(error)
    if isinstance(error, UnicodeDecodeError):
        place = f"byte {error.start} is {error.object[error.start : error.start + 1].hex()}"
        return ExitCode.CONFIGURATION, f"a text that is not UTF-8 ({place}): save it as UTF-8"
    if isinstance(error, ImportError) and (package := (error.name or "").split(".")[0]) in EXTRAS:
        remedy = f"run `{INSTALL} '.[{EXTRAS[package]}]'` in the checkout"
        return ExitCode.CONFIGURATION, f"{package} is not installed: {remedy}"
    if (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    ):  # torch's, which is not imported here
        return ExitCode.CONFIGURATION, f"out of memory: {str(error).split('. ')[0] or 'choose smaller batches'}"
    if type(error).__name__ in WITHOUT:
        return ExitCode.STORAGE, f"there are no usable credentials for the storage: {error}"
    if type(error).__module__.split(".")[0] in CLIENTS:
        return ExitCode.TRY_AGAIN, f"the storage gave no answer: {error}; run the same command again to go on"
    return None


def _of_file(error: OSError) -> tuple[ExitCode, str]:
    """A path that is wrong is the user's to mend, a storage that was away is asked another time, the rest is the storage's."""
    if isinstance(error, StorageError):
        return ExitCode.TRY_AGAIN, f"{error}; run the same command again to go on"
    wrong = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | FileExistsError)
    code = ExitCode.CONFIGURATION if wrong else ExitCode.STORAGE
    if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of a copy, the first name is what was read
        name = error.filename2 or error.filename
        return (
            code,
            f"{f'{name}: ' if name else ''}the disk that this is written to is full; make room, and run it again",
        )
    where = f"{error.filename}: " if error.filename else ""
    return code, f"{where}{error.strerror or str(error).splitlines()[0]}"


def _stop_behind(error: BaseException) -> BaseException | None:
    """The signal that an error came of.

    One while a class is made Python 3.11 wraps in a RuntimeError; one in the middle of something may make its `finally` fail
    (argparse's misses what was not put aside yet).
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause


def _cause(error: BaseException) -> BaseException:
    """What a worker raised, where Ray wrapped it in errors of its own; else the error itself.

    They are known by where they were defined, since Ray is not imported here: a RayTaskError keeps the worker's exception as
    `cause`, Ray Train keeps one per worker, and Ray Data raises an error of its own `from` one of these.
    """
    seen = []
    while type(error).__module__.split(".")[0] == "ray" and error not in seen:
        seen.append(error)
        failures = getattr(error, "worker_failures", None) or {}
        inner = next(iter(failures.values()), None) or getattr(error, "cause", None) or error.__cause__
        error = inner if isinstance(inner, BaseException) else _from_text(str(error)) or error
    return error


def _from_text(text: str) -> UserError | None:
    """The error of ours that a traceback ends in: of one raised while an actor was made, Ray keeps the text alone."""
    for match in reversed(
        list(re.finditer(r"^((?:schemas|pipeline|model|jobs)[\w.]*)\.(\w+): (.+)$", text, re.MULTILINE))
    ):
        kind = getattr(sys.modules.get(match[1]), match[2], None)
        if isinstance(kind, type) and issubclass(kind, UserError):
            return kind(match[3])
    return None
