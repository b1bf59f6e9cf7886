"""The frame of every command: its parser, one sentence for every mistake, the exit code, and what a signal does.

    @command
    def main(arguments: Sequence[str] | None = None) -> int:
        parser = Parser(__doc__)
        ...

Nothing heavy is imported here, and commands import what is heavy once their line has been read: a typo is answered at once.
"""

from __future__ import annotations

import argparse
import errno
import functools
import io
import math
import os
import signal
import sys
import traceback
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn, Protocol

from schemas.commands.sentences import explain
from schemas.commands.signals import Stopped, leave, stopping
from schemas.errors import ExitCode

DEBUG = "--debug"
DIRECTING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
"""Unicode's names for signs that turn the direction of what follows."""
MOST = 1 << 63
"""Whole numbers below it are what numpy and torch take."""
Main = Callable[[Sequence[str] | None], int]


class Command(Protocol):
    """A command as `lst`, a script and a test call it: with its words, or with those of the process."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run it; the exit code."""


class Parser(argparse.ArgumentParser):
    """argparse in our layout: docstrings as they are written, examples below, a mistake in one line, shell completion."""

    def __init__(
        self,
        description: str | None = None,
        examples: str = "",
        reference: Callable[[], str] | None = None,
        **options: Any,
    ) -> None:
        """`reference` makes what stands at the end of --help, where that takes heavy imports."""
        self._reference = reference
        options.setdefault("prog", _program())
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        if examples:
            options["epilog"] = f"examples:\n{examples}"
        super().__init__(description=description, **options)
        self.add_argument(DEBUG, action="store_true", help="show the traceback of an error")

    def format_help(self) -> str:
        """The help, with the reference at its end."""
        if self._reference is not None:
            self.epilog = self._reference()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """One line and exit code 2."""
        sentence = shown(f"error: {message}; {self.prog} --help lists what there is")
        self.exit(ExitCode.CONFIGURATION, f"{sentence}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse prints, but what --help cannot write to its stdout is an error."""
        if file is sys.stdout and file is not None:
            file.write(message)
        else:
            super()._print_message(message, file)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it, but words of a list may stand on both sides of an option (`train CONFIG --dry-run seed=2`).
        In a shell that asks for completions it answers and ends.
        """
        if _reading.get():
            raise _Read(self)
        if "_ARGCOMPLETE" in os.environ:
            import argcomplete

            argcomplete.autocomplete(self)
        words = [action for action in self._actions if not action.option_strings]
        if any(isinstance(action.nargs, str) and action.nargs in "*+" for action in words):
            return super().parse_intermixed_args(args, namespace)
        return super().parse_args(args, namespace)


class _Read(Exception):
    """Carries a command's parser out of its `main`."""

    def __init__(self, parser: Parser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


_reading: ContextVar[bool] = ContextVar("reading", default=False)
"""Whether a command is called for its parser alone."""


def parser_of(main: Main) -> Parser:
    """The parser that a command makes, without running the command: for its reference."""
    token = _reading.set(True)
    try:
        main([])
    except _Read as read:
        return read.parser
    finally:
        _reading.reset(token)
    raise TypeError("the command reads its words without a Parser")


def _program() -> str:
    """How this command was called, as a user would call it again."""
    if sys.argv[0].startswith("lst"):
        return sys.argv[0]
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec is not None else f"python {os.path.relpath(sys.argv[0])}"


def begin(what: str) -> None:
    """Say on a terminal what has begun, before the seconds that torch or Ray take to load."""
    if sys.stderr.isatty():
        print(f"{what} ...", file=sys.stderr, flush=True)


def _number(kind: type[int] | type[float], words: str, holds: Callable[[Any], bool]) -> Callable[[str], Any]:
    """A number for `type=` of an option, which says itself what it may be: `int` and `float` would take -3 and nan."""

    def read(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            number = None
        if number is None or not holds(number):
            raise argparse.ArgumentTypeError(f"{text} is not {words}")
        return number

    return read


count = _number(int, "a whole number from 1 on", lambda number: 1 <= number < MOST)
natural = _number(int, "a whole number from 0 on", lambda number: 0 <= number < MOST)
positive = _number(float, "a number above 0", lambda number: 0 < number < math.inf)
amount = _number(float, "a number from 0 on", lambda number: 0 <= number < math.inf)
share = _number(float, "a number between 0 and 1", lambda number: 0 <= number <= 1)


def utf8(text: str) -> str:
    """A text that stands on the command line itself."""
    if any("\udc80" <= char <= "\udcff" for char in text):  # how Python keeps bytes that are none
        raise argparse.ArgumentTypeError("the text is not UTF-8")
    return text


def distinct(short: Sequence[str], full: Sequence[str]) -> list[str]:
    """What tells things apart that the command line names: each short name where no other is the same, else the full one."""
    return [name if short.count(name) == 1 else whole for name, whole in zip(short, full, strict=True)]


def here(text: str) -> Path:
    """A path on this machine, for `type=` of an option: a URL would become a folder named after its scheme."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is a URL, and this is written to this machine: name a folder, copy it then"
        )
    return Path(text)


def out_file(text: str) -> Path:
    """A file that will be written: its folder is made now, so that a mistake in it costs no work.

    Raises:
        OSError: nothing can be written there.
    """
    path = here(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; name a file in it")
    writable_folder(path.parent)
    return path


def writable_folder(path: Path, *, make: bool = True) -> Path:
    """The folder, made where it is missing; with `make=False` only looked at: whether it could be.

    Raises:
        OSError: it cannot be made, or not be written to.
    """
    if make:
        path.mkdir(parents=True, exist_ok=True)
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "this is no folder", str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "nothing can be written to this folder", str(there))
    return path


def command(main: Main) -> Command:
    """The `main` of a command in its frame: see `run_command`."""

    @functools.wraps(main)
    def framed(arguments: Sequence[str] | None = None) -> int:
        return run_command(main, arguments)

    return framed


def run_command(main: Main, arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; what a user can mend is one sentence on stderr.

    SIGINT, SIGTERM and SIGUSR1 unwind the command (a second one ends it at once), and it ends with `ExitCode.TRY_AGAIN`; a
    command that does better, as training does, has handlers of its own. An exception that nobody foresaw is raised on, with
    its traceback; `--debug` shows that of every error.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    stopped: list[float] = []
    _print_anything()
    try:
        with stopping() as stopped:
            try:
                code = main([word for word in words if word != DEBUG])
                _write_out()
            except SystemExit as ended:
                _write_out()
                if ended.code != signal.SIGTERM:
                    raise
                raise Stopped("SIGTERM") from ended  # by Ray's own handler, which stands from its start to the engine's
    except BrokenPipeError:  # `| head` has seen enough
        _give_up_output()
        return ExitCode.DONE
    except (Exception, KeyboardInterrupt) as error:
        explained = explain(error)
        if explained is None:
            raise
        if DEBUG in words:
            traceback.print_exception(error)
        code, sentence = explained
        with suppress(OSError):  # what was printed before is shown before
            _write_out()
        print(shown(f"error: {sentence}"), file=sys.stderr, flush=True)
    if stopped and arguments is None and code == ExitCode.TRY_AGAIN:  # the process is this command's
        leave(code)
    return code


def _write_out() -> None:
    """Write what a command has printed while an error of that still has a handler.

    Raises:
        OSError: a full disk, a reader that is gone.
    """
    if sys.stdout is None:  # closed by who started the command
        return
    try:
        sys.stdout.flush()
    except OSError:
        _give_up_output()
        raise


def _give_up_output() -> None:
    """What cannot be written is not tried once more at Python's exit, which would end with a code of its own."""
    with suppress(io.UnsupportedOperation):  # a test's own stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def on_one_line(text: str) -> str:
    """The text with what steers a terminal escaped, and line breaks: a file's name may hold both. What joins letters stays."""
    steers = (
        char
        for char in set(text)
        if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(char) in DIRECTING
    )
    return text.translate({ord(char): char.encode("unicode_escape").decode() for char in steers})


def shown(text: str) -> str:
    """The text with what steers a terminal escaped (a file's name may hold colours); line breaks stand between problems."""
    steers = (char for char in set(text) if char != "\n" and unicodedata.category(char).startswith("C"))
    return text.translate({ord(char): char.encode("unicode_escape").decode() for char in steers})


def _print_anything() -> None:
    """What the terminal's encoding lacks (Latin-1 an IPA sign; UTF-8 the bytes of a file's name) is escaped, and no error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
