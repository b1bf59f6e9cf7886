"""What a user can be told: one exception for every mistake and mishap that a sentence explains, and the exit codes.

Whatever a user can mend, or a scheduler can act on, is a `UserError`: what happened, what to do, and the exit code of the
command. Any other exception that reaches the top of a command is a fault of this code. docs/commands.md lists the codes.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended, for scripts and schedulers."""

    DONE = 0
    FAULT = 1
    """An exception that nobody foresaw, with its traceback: Python's own code for it."""
    CONFIGURATION = 2
    """A command line, configuration, input or machine that cannot be used as it is: nothing was begun. argparse's code too."""
    STORAGE = 3
    """A file could not be read or written, or is damaged: no space, no permission, a flipped bit, a store that is away."""
    NOT_ACCEPTED = 4
    """The work is done and its result is refused: more rejects than allowed, problems found, a loss that is not finite."""
    TRY_AGAIN = 75
    """Stopped by a signal, or by something that passes: run the same command again and it goes on (EX_TEMPFAIL)."""


class UserError(Exception):
    """What happened and what to do about it, in words; `code` is how the command that meets it ends."""

    code = ExitCode.CONFIGURATION

    def __init__(self, happened: str, remedy: str = "", code: ExitCode | None = None) -> None:
        """`remedy` may be empty where `happened` says it all; `code` replaces the kind's own."""
        super().__init__(
            happened, remedy, code
        )  # all of them, so that pickle brings the error back from a worker whole
        self.happened, self.remedy = happened, remedy
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.happened}: {self.remedy}" if self.remedy else self.happened


class ConfigError(UserError, ValueError):
    """A configuration, command line or input that cannot be used; the message says which key and what to write instead.

    A ValueError too, so that a pydantic validator can raise it.
    """


class DataError(UserError, ValueError):
    """A file that is missing, damaged, or cannot be read or written; the message names it."""

    code = ExitCode.STORAGE


class ModelError(UserError):
    """A model, or the package that runs it, is not there or cannot be used on this machine."""


class TryAgain(UserError):
    """Nothing is wrong that time does not mend: a signal, a node that went away, a store that did not answer."""

    code = ExitCode.TRY_AGAIN


class StorageError(OSError):
    """A file could not be read or written though it was tried for minutes; the message names it."""


class CredentialsError(UserError):
    """A storage does not let us in, or no longer: nothing of it can be read until somebody mends that.

    No ValueError, which says that something was read and is damaged.
    """

    code = ExitCode.STORAGE
