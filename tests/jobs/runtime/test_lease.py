"""One owner per output: a living one is respected and named, a dead one is taken over by exactly one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.store import lease as lease_module
from jobs.store.lease import Lease, LeaseLost, owned
from jobs.store.store import Store
from schemas.config import ConfigError
from schemas.errors import CredentialsError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def elsewhere(store: Store, age: float) -> None:
    """A lease of another machine, whose heartbeat is so old."""
    then = time.time() - age
    state = {"what": "tokenize", "host": "node7", "machine": "x", "pid": 7, "started": then, "since": then}
    store.write_bytes(
        "control/lease-00000004.json", json.dumps({**state, "heartbeat": then, "released": False}).encode()
    )


def test_a_second_driver_is_refused_with_who_where_and_since_when(store: Store) -> None:
    with owned(store, "tokenize_audio --config a.yaml"):
        with pytest.raises(ConfigError) as refused, owned(store, "gc"):
            pass
        said = str(refused.value)
        assert "tokenize_audio --config a.yaml" in said
        assert socket.gethostname() in said
        assert "since 20" in said
        assert "--take-over" in said
    with owned(store, "gc"):
        pass


def test_another_machine_is_believed_while_its_heart_beats(store: Store) -> None:
    elsewhere(store, age=lease_module.EXPIRES / 2)
    with pytest.raises(ConfigError, match="process 7 on node7"), owned(store, "gc"):
        pass
    with owned(store, "gc", take_over=True):
        pass
    elsewhere(store, age=lease_module.EXPIRES * 2)
    with owned(store, "gc"):
        pass


@pytest.mark.parametrize("beats", [False, True])
def test_a_clock_that_runs_ahead_keeps_no_dead_owner(
    store: Store, beats: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It held the output until its time had come, here for an hour. One that lives is known by a heartbeat that changes."""
    monkeypatch.setattr(lease_module, "BEAT", 0.03)
    monkeypatch.setattr(lease_module, "EXPIRES", 0.3)
    elsewhere(store, age=-3600)
    if not beats:
        begun = time.monotonic()
        with owned(store, "gc"):
            assert time.monotonic() - begun > 0.3
        return
    asked = iter(range(3))
    read = store.read_bytes

    def beating(path: str) -> bytes:
        if next(asked, None) == 2:
            elsewhere(store, age=-3601)
        return read(path)

    monkeypatch.setattr(store, "read_bytes", beating)
    with pytest.raises(ConfigError, match=r"360\d s ahead of this machine's clock.*--take-over"), owned(store, "gc"):
        pass


def test_a_killed_owner_on_this_machine_is_taken_over_at_once(store: Store) -> None:
    code = (
        "import os, signal; from jobs.store.lease import Lease; from jobs.store.store import Store\n"
        f"Lease(Store({store.root!r}), 'x').acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False)
    assert store.names("control")
    with owned(store, "gc"):
        pass


def test_a_clock_that_is_set_kills_no_owner(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day at which a process began is told by the clock as it is now: a living owner was taken over."""
    with owned(store, "tokenize_audio"):
        honest = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: honest(self) - 3600.0)
        with pytest.raises(ConfigError, match="it runs on this machine"), owned(store, "gc"):
            pass


def test_of_many_that_take_over_one_wins(store: Store) -> None:
    elsewhere(store, age=lease_module.EXPIRES * 2)

    def attempt(number: int) -> Any:
        lease = Lease(Store(store.root), f"driver {number}")
        try:
            lease.acquire()
        except ConfigError:
            return None
        return lease

    with ThreadPoolExecutor(8) as pool:
        winners = [lease for lease in pool.map(attempt, range(8)) if lease is not None]
    assert len(winners) == 1
    winners[0].release()


def test_a_listing_that_misses_the_owner_gives_no_second_one(store: Store) -> None:
    """A folder listed while one lease comes and another goes may show neither."""
    with owned(store, "first"):
        late = Store(store.root)
        listed = late.names
        shown = iter([set()])
        late.names = lambda folder: next(shown, None) or listed(folder)  # type: ignore[method-assign]
        with pytest.raises(ConfigError, match="is being written by first"):
            Lease(late, "second").acquire()


def test_a_predecessor_stays_and_those_before_it_go(store: Store) -> None:
    for _ in range(4):
        with owned(store, "gc"):
            pass
    assert sorted(name for name in store.names("control") if "lease" in name) == [
        "lease-00000002.json",
        "lease-00000003.json",
    ]


@pytest.mark.parametrize("error", [CredentialsError("expired", "renew them"), RuntimeError("of a client library")])
def test_a_heart_that_cannot_beat_is_noticed(store: Store, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the storage's client raises: the thread goes on trying, and after EXPIRES seconds the run learns of it."""
    monkeypatch.setattr(lease_module, "BEAT", 0.01)
    monkeypatch.setattr(lease_module, "EXPIRES", 0.1)
    lease = Lease(store, "first")
    lease.acquire()

    def fail(folder: str) -> set[str]:
        raise error

    store.names = fail  # type: ignore[method-assign]
    lease._thread.join(10)
    with pytest.raises(LeaseLost, match="could not be renewed"):
        lease.check()


def test_whoever_was_taken_over_notices(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "BEAT", 0.02)
    first = Lease(store, "first")
    first.acquire()
    second = Lease(store, "second")
    second.acquire(take_over=True)
    deadline = time.monotonic() + 10
    while not first._lost and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(ConfigError, match="taken over by another run"):
        first.check()
    first.release()
    second.release()


@pytest.mark.parametrize(("wall", "passed", "is_lost"), [(3600.0, 20.0, False), (-3600.0, 200.0, True)])
def test_a_clock_that_is_set_neither_ends_an_owner_nor_keeps_one_that_cannot_renew(
    store: Store, monkeypatch: pytest.MonkeyPatch, wall: float, passed: float, is_lost: bool
) -> None:
    """Of two heartbeats the second fails: what counts is the time between them, not what the clock says."""
    lease = Lease(store, "first")
    lease.acquire()
    lease.confirm()
    with monkeypatch.context() as patch:
        now, then = time.time(), time.monotonic()
        patch.setattr(lease_module.time, "time", lambda: now + wall)
        patch.setattr(lease_module.time, "monotonic", lambda: then + passed)
        patch.setattr(store, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError("away")))
        lease.renew()
    assert bool(lease._lost) == is_lost
    lease.release()


def test_an_owner_that_was_taken_over_learns_it_before_it_publishes(store: Store) -> None:
    """Not only with its next heartbeat; and it does not mark the other's lease as released."""
    first, second = Lease(store, "first"), Lease(store, "second")
    first.acquire()
    first.confirm()
    second.acquire(take_over=True)
    with pytest.raises(LeaseLost, match="was taken over by another run"):
        first.confirm()
    first.release()
    second.confirm()
    with pytest.raises(ConfigError, match="is being written by second"):
        Lease(store, "third").acquire()
    second.release()
