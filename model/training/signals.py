"""Signals while a run trains: SIGINT, SIGTERM and SIGUSR1 end it after the step, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

from model.training.distributed import Ranks
from schemas.commands.signals import AGAIN, STOPPING, Stopped, heard_at_once, importing
from schemas.errors import ExitCode

GRACE = 25.0
"""Seconds that a step may still take after SIGINT or SIGTERM; torchrun kills its ranks after 30."""


class Signals:
    """A signal as a flag that all ranks agree on, so that they stop at the same step.

    Where a rank only waits for data, and nobody waits for the rank, the signal interrupts it (`interruptible`). What neither
    ends in time is ended: a step that hangs in a collective or a kernel never comes to look at a flag.
    """

    def __init__(self, interruptible: Callable[[], bool]) -> None:
        self.received = False
        """On this rank."""
        self._interruptible = interruptible
        self._previous: dict[int, Any] = {}
        self._first = 0.0
        self._counting = False
        self._deadline = threading.Timer(GRACE, _give_up)
        self._deadline.daemon = True
        self._ears = ExitStack()

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Ray Train calls from another
            self._ears.enter_context(heard_at_once(self._count_down))
            for number in STOPPING:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self.in_time()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._ears.close()

    def in_time(self) -> None:
        """The step has ended; from here on things may take as long as they take."""
        self._deadline.cancel()

    def anywhere(self, group: Ranks) -> bool:
        """Whether any rank was signalled."""
        return group.sum([float(self.received)])[0] > 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            # A launcher may pass on what the scheduler sent to all; only somebody at a terminal means "now" by a second one.
            if number == signal.SIGINT and time.monotonic() - self._first > AGAIN:
                os._exit(ExitCode.TRY_AGAIN)
            return
        self.received, self._first = True, time.monotonic()
        if self._interruptible() and not importing(frame):
            raise Stopped(signal.Signals(number).name)

    def _count_down(self, number: int) -> None:
        """In a thread of its own: in a kernel or a collective that hangs, the main one never comes to `_receive`."""
        if number != signal.SIGUSR1 and not self._counting:  # that one a scheduler sends minutes ahead
            self._counting = True
            self._deadline.start()


def _give_up() -> None:
    os.write(
        2, b"error: stopped by a signal within a step that did not end; what came after the last checkpoint is lost\n"
    )
    os._exit(ExitCode.TRY_AGAIN)
