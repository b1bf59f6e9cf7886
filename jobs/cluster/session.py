"""The Ray that a job runs on: a cluster's, or one of its own that begins and ends with it."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.cluster.places import COPY
from jobs.monitoring.logs import LOG, without_lines

ROOT = Path(__file__).resolve().parents[2]
STARTS = 3
"""Attempts to start an embedded Ray: it gives the processes it starts 30 s, too short on a machine with much else to do."""


@contextmanager
def ray_session() -> Iterator[Any]:
    """Ray: the cluster that RAY_ADDRESS names (set by `ray job submit`), else an embedded one that ends with the body.

    Inside another session it is that one.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    keep_strangers_out()
    import ray

    if ray.is_initialized():
        yield ray
        return
    mute_reports()
    common = {"logging_level": logging.WARNING, "configure_logging": True}
    if is_embedded():
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its notes on Ray Data's own actors only alarm
        # How long Ray's agents look for a killed driver's session before they end: a minute and more by default.
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
        with few_processes():
            start_embedded(log_to_driver=False, include_dashboard=False, **common)
    else:
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, **this_checkout(), **common)
    try:
        yield ray
    finally:
        ray.shutdown()


def keep_strangers_out() -> None:
    """A Ray of our own asks whoever calls for a token that its own processes alone have: it listens on every
    address of the machine, and whoever reaches it can run code. A cluster's own setting stands.

    Ray's default would write a token into the home folder, after which every `ray start` on the machine demands one.
    """
    if is_embedded() and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        if "ray" in sys.modules:  # which read the mode when it was loaded
            from ray._raylet import Config  # type: ignore[attr-defined]

            Config.initialize("")


def is_embedded() -> bool:
    """Whether a session is a Ray of its own: where no cluster is named."""
    return os.environ.get("RAY_ADDRESS", "local") in ("", "local")


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


def mute_reports() -> None:
    """The driver does not print what Ray's processes report of lost nodes and dead workers, pages of their state: the scheduler
    says in a line what came of it, and Ray's logs have the rest. `ray.init` has no option for it."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda data, ignore_prefix: LOG.debug("%s", data)


def quiet_ray_data() -> None:
    """No bars and no notes from Ray Data. It is loaded for it, which takes seconds."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def this_checkout() -> dict[str, Any]:
    """Options of `ray.init` by which workers import this very code, and not the checkout that their environment was installed
    from. Nothing in Ray's own copy of a checkout (`ray job submit --working-dir`): there Ray sees to it."""
    if COPY in str(ROOT):
        return {}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"runtime_env": {"env_vars": {"PYTHONPATH": path}}}


def start_embedded(**options: Any) -> None:
    """`ray.init` of a Ray of our own, tried again where it did not come up in Ray's time."""
    import psutil
    import ray

    variables = this_checkout().get("runtime_env", {}).get("env_vars", {})
    os.environ.update(
        variables
    )  # the processes of this Ray inherit it; a runtime_env costs each of them a start of its own
    me = psutil.Process()
    before = set(me.children(recursive=True))
    for attempt in range(1, STARTS + 1):
        try:
            with without_lines("Set ray log level"):  # which Ray says of the variable set above
                ray.init(address="local", **options)
            return
        except Exception as error:  # Ray raises nothing more special
            if "timed out during startup" not in str(error) or attempt == STARTS:
                raise
        LOG.warning("Ray did not come up in its 30 s: the machine is busy; trying again")
        ray.shutdown()
        left = [process for process in me.children(recursive=True) if process not in before]
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=30)
