"""An embedded Ray that does not come up in time is ended and started again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import services

from jobs.cluster.session import check_address, keep_strangers_out, mute_reports
from jobs.cluster.starting import STARTS, embedded, groups_of_their_own
from schemas.commands.signals import Stopped
from schemas.errors import ConfigError, TryAgain

ROOT = Path(__file__).resolve().parents[3]
LATE = "The current node timed out during startup. This could happen because ..."


class Starter:
    """Stands for `ray.init` on a busy machine: leaves a process behind and fails, the first `failures` times."""

    def __init__(self, failures: int, message: str = LATE) -> None:
        self.failures, self.message = failures, message
        self.error: type[BaseException] = Exception
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, **options: Any) -> None:
        assert options == {"address": "local", "num_cpus": 1}
        self.processes.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        if len(self.processes) <= self.failures:
            raise self.error(self.message)


@pytest.fixture
def starter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Starter(*request.param)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(ray, "init", made)
    try:
        yield made
        assert bystander.poll() is None, "ended a process that is not Ray's"
    finally:
        for process in [*made.processes, bystander]:
            process.kill()
            process.wait()


@pytest.mark.parametrize("starter", [(STARTS - 1,)], indirect=True)
def test_a_late_ray_is_started_again_and_leaves_nothing_behind(
    starter: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    with embedded(num_cpus=1):
        assert len(starter.processes) == STARTS
        assert [process.poll() is None for process in starter.processes] == [False] * (STARTS - 1) + [True]
        assert "trying again" in caplog.text
    assert starter.processes[-1].poll() is not None


@pytest.mark.parametrize("starter", [(1, "interrupt")], indirect=True)
def test_a_start_that_is_interrupted_leaves_nothing_behind(starter: Starter) -> None:
    """A signal comes while Ray starts what it does not know of yet."""
    starter.error = Stopped
    with pytest.raises(Stopped), embedded(num_cpus=1):
        raise AssertionError("never up")
    assert [process.poll() is None for process in starter.processes] == [False]


@pytest.mark.parametrize(
    ("starter", "attempts", "kind", "said"),
    [((STARTS,), STARTS, TryAgain, "Ray did not come up"), ((1, "no such resource"), 1, Exception, "no such resource")],
    indirect=["starter"],
)
def test_what_is_no_lateness_or_stays_late_is_said(
    starter: Starter, attempts: int, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said), embedded(num_cpus=1):
        pass
    assert len(starter.processes) == attempts


def test_ray_takes_no_signal_from_the_command() -> None:
    """Its two handlers of SIGTERM stay out: ours hears it, and nothing aborts the process three seconds later."""
    code = (
        "import os, signal, time\nimport ray\nfrom ray._private import utils\n"
        "from jobs.cluster import starting\n"
        "heard = []\nsignal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))\n"
        "with starting.signals_stay_ours():\n"
        "    utils.set_sigterm_handler(None)\n"  # what `ray.init` calls before it starts anything
        "    install = getattr(starting.ctypes.PyDLL(ray._raylet.__file__), starting.FATAL_HANDLER)\n"
        "    install(None, True)\n"  # what a driver does when it connects
        "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(3.5)\nprint(heard)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[15]\n", "")


def test_rays_processes_lead_groups_of_their_own() -> None:
    """A scheduler that signals the command's group reaches the command alone."""
    with groups_of_their_own():
        process = services.ConsolePopen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert os.getpgid(process.pid) == process.pid
    finally:
        process.kill()
        process.wait()
    assert isinstance(services.ConsolePopen, type)


def test_a_ray_of_our_own_has_a_secret_and_a_cluster_keeps_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS")

    def after(**given: str) -> dict[str, str | None]:
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "ray")  # this process's own Ray keeps its mode
            for name in names:
                patch.setenv(name, "")  # so that it is put back
                patch.delenv(name)
            for name, value in given.items():
                patch.setenv(name, value)
            keep_strangers_out()
            return {name: os.environ.get(name) for name in names}

    first, second = after(), after()
    assert first["RAY_AUTH_MODE"] == "token"
    assert len(first["RAY_AUTH_TOKEN"] or "") == 64
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]
    assert after(RAY_ADDRESS="head:6379")["RAY_AUTH_MODE"] is None
    assert after(RAY_AUTH_MODE="disabled")["RAY_AUTH_TOKEN"] is None


def test_what_rays_processes_report_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A lost node's raylet has 80 lines to say; the thread that hears them calls a function of this name, at each message."""
    from ray._private import worker

    assert "print_to_stdstream" in worker.listen_error_messages.__code__.co_names
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    mute_reports()
    worker.print_to_stdstream(
        {"lines": ["Raylet is terminated."], "pid": "raylet", "is_err": False}, ignore_prefix=False
    )
    said = capfd.readouterr()
    assert "Raylet" not in said.out + said.err


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:6379", "ray://127.0.0.1:99999"])
def test_where_no_cluster_answers_it_is_said_at_once(address: str) -> None:
    with pytest.raises(ConfigError, match=f"no Ray answers at RAY_ADDRESS={address}"):
        check_address(address)


def test_a_cluster_that_answers_or_is_named_otherwise_is_left_to_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")
    check_address("auto")
