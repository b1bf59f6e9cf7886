"""The Ray that a job runs on: a cluster's, or one of its own that begins and ends with it."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.cluster.starting import embedded, few_processes, signals_stay_ours, this_checkout
from jobs.monitoring.logs import LOG
from schemas.errors import ConfigError

ANSWER = 20.0
"""Seconds that a cluster's head has to accept a connection."""


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
        # How long the rest of a killed driver's session looks for it before it ends (Ray: a minute); its two agents take one.
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
        with few_processes(), embedded(log_to_driver=False, include_dashboard=False, **common):
            yield ray
        return
    check_address(os.environ["RAY_ADDRESS"])
    with signals_stay_ours():
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, **this_checkout(), **common)
    try:
        yield ray
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Ask whether anybody answers there: Ray would for minutes, and end in a traceback.

    Raises:
        ConfigError: nobody does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():  # such as "auto"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"no Ray answers at RAY_ADDRESS={address} ({why})", "start the cluster, or unset it for a Ray of its own"
        ) from error


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
