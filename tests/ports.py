"""Ports for processes that tests start, which take no port of their own choice."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

PORTS = range(20_000, 32_000)
"""Ray's workers take those below, and Linux hands out those above (from 32,768 on, unless it is told otherwise): of these nobody
is given one between a look at it and its use, which may be seconds later."""


def free_ports(count: int) -> list[int]:
    """So many different ports that nobody uses on the loopback address."""
    with ExitStack() as stack:
        found: list[int] = []
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            taken = stack.enter_context(socket.socket())
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"{len(found)} ports are free of {PORTS.start} to {PORTS.stop - 1}: {count} are needed")
