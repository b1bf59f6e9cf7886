"""A plugin of pytest that notes each test as it begins and ends (`--record FILE`), and leaves out those that have a result there.

After a fault of CUDA it stops: nothing in this process can be trusted then. See `model.gpu.apart`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.gpu.apart import Result, finished, note

FAULTS = ("CUDA error", "CUBLAS_STATUS", "cudaError", "device-side assert", "illegal memory access")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--record`."""
    parser.addoption("--record", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    """Take part where a record is asked for."""
    record = config.getoption("--record")
    if record is not None:
        config.pluginmanager.register(Recorder(record))


class Recorder:
    """Writes the record of one session."""

    def __init__(self, record: Path) -> None:
        self._record, self._done = record, finished(record)
        self._result: Result = {}
        self._fault = False

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what is done."""
        items[:] = [item for item in items if name_of(item.nodeid) not in self._done]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._result = {"name": name_of(nodeid), "status": "passed", "seconds": 0.0}
        note(self._record, {"begun": name_of(nodeid)})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One of a test's three parts has ended."""
        self._result["seconds"] += report.duration
        if report.failed:
            text = report.longreprtext
            self._result |= {"status": "failed", "why": " ".join(text[-400:].split())}
            self._fault |= any(fault in text for fault in FAULTS)
        elif report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            self._result |= {"status": "not run", "why": why}

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self) -> None:
        """A test has ended."""
        note(self._record, self._result)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Take no further test after a fault."""
        if self._fault:
            item.session.shouldstop = "a fault of CUDA"

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: Any) -> None:
        """0 where all tests ran, whatever came of them."""
        whole = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
        if session.exitstatus in whole and not self._fault:
            session.exitstatus = pytest.ExitCode.OK


def name_of(nodeid: str) -> str:
    """Without the file."""
    return nodeid.rpartition("/")[2].partition("::")[2] or nodeid
