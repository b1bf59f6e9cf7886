"""One owner per output: whoever retires, gathers or removes holds the lease, a numbered file with a heartbeat in it.

control/lease-<number>.json   created exclusively by its owner, who rewrites it while it works and marks it released at its end

The highest number counts, and its predecessor stays beside it. Taking over means creating the next number, which one of several
wins; an owner that finds a higher number than its own has lost the output and stops. A dead owner is known by its process on the
same machine, or elsewhere by a heartbeat that is older than `EXPIRES` (machines are taken to agree on the time within a minute).
A heartbeat from farther ahead has no age: whoever wants the output watches it until it changes, or for as long.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from schemas.config import ConfigError
from schemas.storage.files import Files

LOG = logging.getLogger("lst")
BEAT = 15.0
"""Seconds between heartbeats."""
EXPIRES = 180.0
"""Seconds without a heartbeat after which an owner on another machine counts as dead."""
AHEAD = 60.0
"""Seconds by which a heartbeat may lie in the future and still have an age."""
NAME = re.compile(r"lease-(\d{8})\.json")


class LeaseLost(ConfigError):
    """Another run has taken the output over."""


class Lease:
    """The right to change an output."""

    def __init__(self, store: Files, what: str) -> None:
        self.store, self.what = store, what
        self.number = -1
        self._since = time.time()  # for others to read, whose clocks may be set
        self._renewed = time.monotonic()
        self._identity = {**_process(), "run": uuid.uuid4().hex[:12], "what": what}
        self._ended = threading.Event()
        self._lost = ""
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def acquire(self, take_over: bool = False) -> None:
        """Become the owner.

        Raises:
            ConfigError: somebody else is; the sentence says who, where and since when.
        """
        watched = False
        while True:
            number, other = _current(self.store)
            if other is not None and not other.get("released") and not take_over and (why := _alive(other)):
                if watched or not _is_ahead(other):
                    raise ConfigError(self._refusal(other, why))
                watched = True
                if self._changes(number, other):
                    continue
            # The next number, and no file removed first: of several that take over one wins, and no moment is without owner.
            self.number = number + 1
            if (
                self.store.create_exclusively(_path(self.number), self._content())
                and _numbers(self.store)[-1] == self.number
            ):
                break
            # A folder that changes while it is listed may show neither the file that goes nor the one that came. Hence the
            # second look at the numbers, and the predecessor that stays until the next owner: one name at least is always there.
        self.store.remove_all([_path(old) for old in _numbers(self.store) if old < self.number - 1])
        self._thread.start()

    def _changes(self, number: int, other: dict[str, Any]) -> bool:
        """Whether the lease is another within `EXPIRES` seconds of ours: that of a living owner is after one of its beats."""
        LOG.warning("%s: %s; it is watched for up to %.0f s", self.store.root, _alive(other), EXPIRES)
        begun = time.monotonic()
        while time.monotonic() - begun < EXPIRES:
            time.sleep(BEAT / 3)
            if _current(self.store) != (number, other):
                return True
        return False

    def check(self) -> None:
        """Raises LeaseLost if somebody has taken the output over."""
        if self._lost:
            raise LeaseLost(self._lost)

    def confirm(self) -> None:
        """A heartbeat now and `check`: before what only the owner may do.

        Raises:
            LeaseLost: somebody has taken the output over.
        """
        self.renew()
        self.check()

    def release(self) -> None:
        """Stop being the owner."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._lost:
            self.store.write_bytes(_path(self.number), self._content(released=True))

    def _content(self, released: bool = False) -> bytes:
        state = {**self._identity, "since": self._since, "heartbeat": time.time(), "released": released}
        return json.dumps(state, indent=1).encode()

    def renew(self) -> None:
        """One heartbeat; where a higher number than ours exists, the output is lost."""
        try:
            if _numbers(self.store)[-1:] != [self.number]:
                self._lost = f"{self.store.root} was taken over by another run: this one has stopped"
                return
            self.store.write_bytes(_path(self.number), self._content())
            self._renewed = time.monotonic()
        except Exception as error:  # whatever it is: a heartbeat that ended without a word would leave two owners
            if time.monotonic() - self._renewed > EXPIRES:
                self._lost = f"the lease on {self.store.root} could not be renewed: {error}"

    def _beat(self) -> None:
        while not self._lost and not self._ended.wait(BEAT):
            self.renew()
        if self._lost:
            LOG.error("%s", self._lost)

    def _refusal(self, other: dict[str, Any], why: str) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(other["since"]))
        return (
            f"{self.store.root} is being written by {other['what']} (process {other['pid']} on {other['host']}, since {since}; "
            f"{why}): wait for it or stop it. If it is dead, it can be taken over {EXPIRES:.0f} s after its last heartbeat by "
            "running this command again, or at once with --take-over"
        )


@contextmanager
def owned(store: Files, what: str, take_over: bool = False) -> Iterator[Lease]:
    """Hold the lease while the body runs."""
    store.check_writable()
    lease = Lease(store, what)
    lease.acquire(take_over)
    try:
        yield lease
    finally:
        lease.release()


def read_owner(store: Files) -> tuple[dict[str, Any] | None, str]:
    """The last owner of an output as its lease states it, and how one knows that it still works; nothing where it does not."""
    _, owner = _current(store)
    return owner, "" if owner is None or owner.get("released") else _alive(owner)


def _current(store: Files) -> tuple[int, dict[str, Any] | None]:
    """The number that counts, and what its owner wrote."""
    numbers = _numbers(store)
    if not numbers:
        return -1, None
    try:
        owner: dict[str, Any] = json.loads(store.read_bytes(_path(numbers[-1])))
    except (FileNotFoundError, ValueError):
        return numbers[-1], None
    return numbers[-1], owner


def _numbers(store: Files) -> list[int]:
    return sorted(int(match[1]) for name in store.names("control") if (match := NAME.fullmatch(name)))


def _path(number: int) -> str:
    return f"control/lease-{number:08d}.json"


def _process() -> dict[str, Any]:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = space = ""
    return {
        "host": socket.gethostname(),
        "machine": f"{boot} {space}",
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "ticks": _ticks(os.getpid()),
    }


def _ticks(process: int) -> int | None:
    """When a process began, in the kernel's ticks since the machine did: its time of day changes when the clock is set."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return None


def _alive(other: dict[str, Any]) -> str:
    """How one knows that an owner lives, or nothing."""
    age = time.time() - other["heartbeat"]
    if _is_here(other):
        try:
            process = psutil.Process(other["pid"])
            ticks = other.get("ticks")  # which leases of earlier versions lack
            same = abs(process.create_time() - other["started"]) < 1 if ticks is None else _ticks(process.pid) == ticks
            alive = same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            alive = False
        return "it runs on this machine" if alive else ""
    if _is_ahead(other):
        return f"its last heartbeat is {-age:.0f} s ahead of this machine's clock"
    return f"its last heartbeat is {max(age, 0):.0f} s old" if age < EXPIRES else ""


def _is_here(other: dict[str, Any]) -> bool:
    here = _process()
    return (other["host"], other["machine"]) == (here["host"], here["machine"])


def _is_ahead(other: dict[str, Any]) -> bool:
    return not _is_here(other) and other["heartbeat"] - time.time() > AHEAD
