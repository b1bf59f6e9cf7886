"""An embedded Ray that does not come up in time is ended and started again."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import ray

from jobs.cluster.session import STARTS, keep_strangers_out, mute_reports, start_embedded

LATE = "The current node timed out during startup. This could happen because ..."


class Starter:
    """Stands for `ray.init` on a busy machine: leaves a process behind and fails, the first `failures` times."""

    def __init__(self, failures: int, message: str = LATE) -> None:
        self.failures, self.message = failures, message
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, **options: Any) -> None:
        assert options == {"address": "local", "num_cpus": 1}
        self.processes.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        if len(self.processes) <= self.failures:
            raise Exception(self.message)


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
    start_embedded(num_cpus=1)
    assert len(starter.processes) == STARTS
    assert [process.poll() is None for process in starter.processes] == [False] * (STARTS - 1) + [True]
    assert "trying again" in caplog.text


@pytest.mark.parametrize(
    ("starter", "attempts"), [((STARTS,), STARTS), ((1, "no such resource"), 1)], indirect=["starter"]
)
def test_what_is_no_lateness_or_stays_late_is_said(starter: Starter, attempts: int) -> None:
    with pytest.raises(Exception, match=starter.message[:20]):
        start_embedded(num_cpus=1)
    assert len(starter.processes) == attempts


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
