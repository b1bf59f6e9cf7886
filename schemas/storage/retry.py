"""Asking a storage again: over minutes while it says that it cannot answer now, with growing pauses.

An object store answers 500, 503 or 409 for a while and is well again; a shared file system loses a handle. What still fails after
`RETRY_SECONDS` is a StorageError, which costs a partition and not the run, or ends a command that a scheduler then starts again.
"""

from __future__ import annotations

import errno
import math
import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

from schemas.errors import ConfigError, CredentialsError, StorageError

Result = TypeVar("Result")


def _seconds(text: str) -> float:
    """A number of seconds; nan for anything else, which is said once a storage is asked: nobody hears an error of an import."""
    try:
        return float(text)
    except ValueError:
        return math.nan


RETRY_SECONDS = _seconds(os.environ.get("LST_RETRY_SECONDS", "240"))
"""How long one request is tried again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0
"""Seconds between tries, which double."""
EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "RequestExpired", "InvalidToken")
WITHOUT = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError")
"""Errors of botocore that say there is nobody to ask as."""
TRANSIENT_STATUS = (408, 409, 425, 429, 500, 502, 503, 504)
"""409 among them: S3 says so where two writes with a condition meet, and the second try says which of them won."""
LASTING = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC}
    | {errno.EDQUOT, errno.ENAMETOOLONG, errno.EINVAL, errno.EFBIG, errno.ELOOP, errno.EMFILE, errno.ENFILE}
)
"""What a file system says that waiting does not change."""
LASTING_KINDS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure")
"""Packages whose own errors, which are no OSErrors, mean that a storage gave no answer, or one with a status."""


def asked_again(named: str, call: Callable[[], Result]) -> Result:
    """The result of `call`, made again for minutes while the storage says that it cannot answer now. `named` is the file.

    Raises:
        ConfigError: `LST_RETRY_SECONDS` is no number of seconds.
        CredentialsError: the credentials are missing or have expired.
        StorageError: it was tried for `RETRY_SECONDS`.
        OSError: anything that waiting does not mend, at once.
    """
    if not RETRY_SECONDS >= 0:
        raise ConfigError(
            f"LST_RETRY_SECONDS={os.environ['LST_RETRY_SECONDS']}", "write a number of seconds, such as 240"
        )
    deadline, pause = time.monotonic() + RETRY_SECONDS, FIRST_PAUSE
    while True:
        try:
            return call()
        except Exception as error:
            if not time_mends(named, error):
                raise
            if time.monotonic() + pause > deadline:
                raise StorageError(f"{named} could not be reached for {RETRY_SECONDS:.0f} s: {error}") from error
        time.sleep(pause * random.uniform(0.5, 1.0))  # so that workers do not come back all at once
        pause = min(pause * 2, LONGEST_PAUSE)


def time_mends(named: str, error: Exception) -> bool:
    """Whether an error says that a storage cannot answer now, and nothing of the file.

    Raises:
        CredentialsError: it says that the credentials are missing or have expired.
    """
    status, code = status_of(error)
    if code in EXPIRED:
        raise CredentialsError(
            f"the credentials for {named} have expired ({code})", "renew them and run the same command again"
        ) from error
    if type(error).__name__ in WITHOUT:
        raise CredentialsError(f"there are no usable credentials for {named}: {error}") from error
    if isinstance(error, StorageError):  # of a call that asked again itself
        return False
    if not isinstance(error, OSError):
        return type(error).__module__.split(".")[0] in CLIENTS and status in (None, *TRANSIENT_STATUS)
    if isinstance(error, LASTING_KINDS) or error.errno in LASTING:
        return status in TRANSIENT_STATUS
    # an OSError with neither is our own word about what a file holds
    known = error.errno is not None or status is not None or isinstance(error, TimeoutError | ConnectionError)
    return known and status in (None, *TRANSIENT_STATUS)


def status_of(error: BaseException | None) -> tuple[int | None, str]:
    """The HTTP status and the error code behind an error of an object store, as far as it says."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status, str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return None, ""
