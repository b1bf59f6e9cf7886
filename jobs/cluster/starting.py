"""How a Ray is started: with this checkout's code, with the signals left to the command, and nothing of it left at the end."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jobs.cluster.places import COPY
from jobs.monitoring.logs import LOG, without_lines
from schemas.commands.signals import nothing_to_keep
from schemas.errors import TryAgain

ROOT = Path(__file__).resolve().parents[2]
STARTS = 3
"""Attempts to start an embedded Ray: it gives the processes it starts 30 s, too short on a machine with much else to do."""
FATAL_HANDLER = "_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb"
"""`ray::RayLog::InstallFailureSignalHandler(argv0, call_previous_handler)`, which does nothing when it is called again."""


@contextmanager
def embedded(**options: Any) -> Iterator[None]:
    """A Ray of our own while the body lasts: `ray.init`, tried again where it did not come up in Ray's time.

    However the start or the body ends, a signal included, none of its processes is left.
    """
    import psutil
    import ray

    variables = this_checkout().get("runtime_env", {}).get("env_vars", {})
    # Inherited by all processes of this Ray; a runtime_env would cost each of them a start of its own.
    os.environ.update(variables)
    before = set(psutil.Process().children(recursive=True))
    for attempt in range(1, STARTS + 1):
        try:
            with (
                without_lines("Set ray log level"),  # which Ray says of the variable set above
                signals_stay_ours(),
                groups_of_their_own(),
                nothing_to_keep(functools.partial(kill_children, before)),  # most of it is one call, deaf to signals
            ):
                ray.init(address="local", **options)
            break
        except BaseException as error:  # a signal leaves a Ray that only half knows what it has started
            end_embedded(before)
            if "timed out during startup" not in str(error):
                raise
            if attempt == STARTS:
                logs = f"{os.environ.get('RAY_TMPDIR', '/tmp')}/ray/session_latest/logs"
                raise TryAgain(
                    f"Ray did not come up, {STARTS} times in 30 s each",
                    f"run the same command again when the machine has less to do; else {logs} may say why",
                ) from error
        LOG.warning("Ray did not come up in its 30 s: the machine is busy; trying again")
    try:
        yield
    finally:
        end_embedded(before)


def end_embedded(before: set[Any]) -> None:
    """`ray.shutdown`, and an end to whatever of this Ray that leaves: what a start had not come back from it does not know, and
    its agents look for a Ray that is gone for half a minute. `before`: the processes that are not Ray's."""
    import psutil
    import ray

    started = set(psutil.Process().children(recursive=True))
    try:
        ray.shutdown()
    finally:
        psutil.wait_procs(kill_children(before, started), timeout=10)


def kill_children(before: set[Any], known: Iterable[Any] = ()) -> set[Any]:
    """SIGKILL for all that this process, or its children, have started, and for those known of old; not for those of `before`.

    Returns those that this process itself has started.
    """
    import psutil

    me = psutil.Process()
    children = set(me.children()) - before
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.suspend()  # the raylet starts no more of them while they are listed
    grandchildren = {*known, *me.children(recursive=True)} - before - children
    for process in (*grandchildren, *children):  # the raylet last: the driver aborts when it misses it
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return children


@contextmanager
def signals_stay_ours() -> Iterator[None]:
    """While it lasts, a Ray that starts takes no signal from the command.

    Ray puts two handlers in the way of SIGTERM. One of Python, in place of ours, exits with 15. One of C++, when the driver has
    connected, prints a trace and calls ours, but has the process aborted if it has not ended three seconds later. The
    first is left out; the second is installed now, with SIGTERM given back: Ray installs it once in a process. Where another
    version of Ray names them otherwise, they stand as ever.
    """
    from ray import _raylet
    from ray._private import utils

    if install := getattr(ctypes.PyDLL(_raylet.__file__), FATAL_HANDLER, None):
        install.argtypes, install.restype = (ctypes.c_char_p, ctypes.c_bool), None
        install(None, True)
        with suppress(ValueError):  # not in the main thread: Ray leaves SIGTERM's handler of Python alone there, too
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    before = getattr(utils, "set_sigterm_handler", None)
    if before is None:
        yield
        return
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before


@contextmanager
def groups_of_their_own() -> Iterator[None]:
    """While it lasts, each process that Ray starts leads a process group: a scheduler that signals the command's whole group
    means the command, which needs its Ray until it has ended. The kernel ends them with the command, whatever ends that."""
    from ray._private import services

    before = getattr(services, "ConsolePopen", None)  # by another name in other versions: they are started as ever
    if before is None:
        yield
        return
    services.ConsolePopen = functools.partial(before, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = before


@contextmanager
def few_processes() -> Iterator[None]:
    """While it lasts, a Ray that is started has no dashboard, autoscaler or log monitor, which nobody would ask anything: half of
    the processes, and a third of the processor time that Ray takes to start and while it idles.

    `ray.init` has no option for it. Where another version of Ray names them otherwise, they are started as ever.
    """
    from ray._private.node import Node

    # Ray's two agents stay: the raylet waits for their ports before it serves anybody.
    names = [name for name in ("start_monitor", "start_api_server", "start_log_monitor") if hasattr(Node, name)]
    before = {name: getattr(Node, name) for name in names}
    for name in names:
        setattr(Node, name, lambda self, **options: None)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


def this_checkout() -> dict[str, Any]:
    """Options of `ray.init` by which workers import this very code, and not the checkout that their environment was installed
    from. Nothing in Ray's own copy of a checkout (`ray job submit --working-dir`): there Ray sees to it."""
    if COPY in str(ROOT):
        return {}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"runtime_env": {"env_vars": {"PYTHONPATH": path}}}
