"""Processes that end when they should: with their parent, and when their parent says so."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process `number` when the thread that started it ends, however it ends.

    Linux alone has this; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:  # it ended before the kernel knew
        os.kill(os.getpid(), number)


def obey_the_parent_alone() -> None:
    """For a worker process: SIGTERM from its parent ends it; signals from anyone else, who mean the parent, do nothing.

    A scheduler or a terminal signals every process of a job, and the parent still needs its workers until it has decided. To be
    called first thing in the worker, whose parent blocked these signals while it started it: none may come in between.
    """
    parent = os.getppid()
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGUSR1})

    def listen() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=listen, daemon=True, name="signals").start()
