"""What SIGINT, SIGTERM and SIGUSR1 do to a command: they unwind its main thread, wherever that is.

Python runs a handler in the main thread alone, between two of its own instructions. Three things can then go wrong, and each
has been seen: the thread sits in foreign code for minutes (torch waiting for ranks that never come) and no handler runs; the
exception is raised where Python or a library drops it; it is raised while a module with native code is imported, which aborts
the process. So a thread hears the signal as it comes, no import is interrupted, and what was dropped is sent again.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from schemas.errors import ExitCode

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, a scheduler's end, a scheduler's warning before it."""
AGAIN = 1.0
"""Seconds after which a second signal is one more, and not the first as a launcher passed it on."""
PATIENCE = 10.0
"""Seconds that the main thread has to notice a signal; then the process ends without it."""
LITTLE_PATIENCE = 3.0
"""The same where there is nothing to keep: in an import, and where the command says so."""
SOON = 0.05
"""Seconds until a signal is sent again that came during an import."""
LOOK = 0.5
"""Seconds between two looks at whether the main thread has noticed; where it has not, the signal is sent again."""
JOIN = 5.0
"""Seconds that the listening thread has to end."""
DROPPED = 3
"""Looks at which a main thread that was interrupted does not unwind: the exception was dropped."""


_not_kept: list[Callable[[], object]] = []
"""What `nothing_to_keep` was given, by those that have entered it."""
_standing = threading.Event()
"""`stopping` has been entered: a command that another one calls, as `lst` does, stands in its signals too."""


class Stopped(KeyboardInterrupt):
    """A signal that ends the command; like Ctrl-C's own exception it passes through `except Exception`."""


@contextmanager
def stopping() -> Iterator[list[float]]:
    """Signals as `Stopped` in the main thread, where there is one to raise it in; a second one ends the process at once.

    Yields a list that is not empty once `Stopped` was raised.
    """
    begun: list[float] = []
    if threading.current_thread() is not threading.main_thread() or _standing.is_set():
        yield begun
        return
    held_up, ended = threading.Event(), threading.Event()
    stderr = _copy_of_stderr()  # the main thread may have put another in its place, and not come to put it back
    at_work = threading.Lock()  # for sending again: nothing may come once the handlers from before are back

    def stop(number: int, frame: FrameType | None) -> None:
        if begun:
            if time.monotonic() - begun[0] > AGAIN:
                os._exit(ExitCode.TRY_AGAIN)
        elif importing(frame):
            held_up.set()
        else:
            begun.append(time.monotonic())
            raise Stopped(signal.Signals(number).name)

    def watch(number: int) -> None:
        came, looks = time.monotonic(), 0
        while signal.getsignal(number) is stop:
            if ended.wait(SOON if held_up.is_set() and not begun else LOOK):
                return
            looks = looks + 1 if begun and not _unwinding() else 0
            if looks == DROPPED:
                begun.clear()
                came, looks = time.monotonic(), 0
            with at_work:
                if begun or ended.is_set():
                    continue
                if time.monotonic() - came > (LITTLE_PATIENCE if held_up.is_set() or _not_kept else PATIENCE):
                    _abandon(number, stderr)
                os.kill(os.getpid(), number)
        with at_work:  # somebody else's handler looks after it from here on
            if held_up.is_set() and not begun and not ended.is_set():
                held_up.clear()
                os.kill(os.getpid(), number)

    tell = sys.unraisablehook

    def hear(lost: sys.UnraisableHookArgs) -> None:
        # What is raised while an object is collected, or called back for, goes nowhere.
        if isinstance(lost.exc_value, Stopped):
            begun.clear()
        else:
            tell(lost)

    before = {number: signal.signal(number, stop) for number in STOPPING}
    sys.unraisablehook = hear
    _standing.set()
    try:
        with heard_at_once(watch):
            try:
                yield begun
            finally:
                with at_work:
                    ended.set()
    finally:
        _standing.clear()
        os.close(stderr)
        sys.unraisablehook = tell
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def blocked_signals() -> Iterator[None]:
    """A signal that comes while it lasts waits until its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def nothing_to_keep(end: Callable[[], object]) -> Iterator[None]:
    """While it lasts, a signal that the main thread does not notice for `LITTLE_PATIENCE` ends the process.

    `end` is called before, in another thread: for processes that would live on.
    """
    _not_kept.append(end)
    try:
        yield
    finally:
        _not_kept.remove(end)


@contextmanager
def heard_at_once(hear: Callable[[int], None]) -> Iterator[None]:
    """Call `hear` with a signal's number as soon as it comes, in a thread of its own, whatever the main thread is doing.

    To be entered by the main thread. One call at a time.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        with reader:
            while number := reader.recv(1):
                if number[0] in STOPPING:
                    hear(number[0])

    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=listen, daemon=True, name="signals")
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        with suppress(OSError):
            writer.shutdown(
                socket.SHUT_RDWR
            )  # which ends the thread; closing would not, where a forked child has a copy
        writer.close()
        # A thread that still stands when Python goes down is ended there by pthread_exit, which aborts the process once torch is
        # loaded ("terminate called without an active exception").
        thread.join(JOIN)


def leave(code: int) -> NoReturn:
    """End the process that was interrupted, without taking Python itself down.

    Native code that the exception came through may crash there (Ray's did), and under load it takes seconds.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _abandon(number: int, stderr: int) -> NoReturn:
    """End the process without its main thread."""
    try:
        os.write(stderr, f"error: stopped by {signal.Signals(number).name}; run it again to go on\n".encode())
        for end in _not_kept:
            end()
    finally:
        os._exit(ExitCode.TRY_AGAIN)


def _copy_of_stderr() -> int:
    """A descriptor of stderr as it is now, of nothing where it is closed."""
    try:
        return os.dup(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported there."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _unwinding() -> bool:
    """Whether the main thread handles a `Stopped`, or an error that came of it."""
    now: Any = sys._current_exceptions().get(threading.main_thread().ident or 0)
    error: BaseException | None = now[1] if isinstance(now, tuple) else now  # the exception alone since Python 3.12
    while error is not None and not isinstance(error, Stopped):
        error = error.__cause__ or error.__context__
    return error is not None


def _deaf() -> None:
    """A forked child shares its parent's ears: a signal to it alone would be heard by the parent."""
    with suppress(ValueError):  # forked by another thread than the main one
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_deaf)
