"""Workers log to files of their own and say what they work on; the driver's console gets its own lines and none of Ray's."""

import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.monitoring import logs
from jobs.monitoring.logs import LOG, forget_old_logs, log_to_console, log_to_file, without_lines, working_on

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The loggers of this process are as they were once the test is over."""
    root = logging.getLogger()
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in (root, LOG)]
    yield
    logging.captureWarnings(False)
    for logger, handlers, level, propagate in before:
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_a_worker_says_stage_and_partition_in_its_own_file_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = log_to_file(str(tmp_path), "run1", "gpu")
    LOG.info("ready")
    with working_on("units", "abc"):
        LOG.warning("slow")
        logging.getLogger("some.library").warning("a library's")
        logging.getLogger("some.library").info("chatter")
        warnings.warn("deprecated", stacklevel=1)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert path.parent == tmp_path / "control" / "logs" / "run1"
    assert path.name.startswith("gpu-")
    assert path.name.endswith(f"-{os.getpid()}.log")
    assert lines[0].endswith("INFO - -: ready")
    assert lines[1].endswith("WARNING units abc: slow")
    assert lines[2].endswith("WARNING units abc: a library's")
    assert any("units abc" in line and "deprecated" in line for line in lines[3:])
    assert not any("chatter" in line for line in lines)
    assert capfd.readouterr() == ("", "")


def test_a_process_that_changes_its_pool_leaves_the_old_file(tmp_path: Path) -> None:
    first = log_to_file(str(tmp_path), "run1", "a")
    LOG.info("one")
    second = log_to_file(str(tmp_path), "run1", "b")
    LOG.info("two")
    assert ("one" in first.read_text(), "two" in first.read_text()) == (True, False)
    assert ("one" in second.read_text(), "two" in second.read_text()) == (False, True)


def test_on_an_object_store_logs_stay_on_the_node() -> None:
    assert "s3:" not in str(logs.log_folder("s3://bucket/out", "run1"))
    assert logs.log_folder("s3://bucket/out", "run1").parts[-2:] == ("lst", "run1")


def test_the_console_says_the_time_where_nobody_looks_on(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_console()
    log_to_console()
    LOG.info("begun")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("begun") == 1
    time.strptime(said.err.split()[0], "%H:%M:%S")


def test_only_the_logs_of_the_last_runs_are_kept(tmp_path: Path) -> None:
    for number in range(12):
        folder = tmp_path / "control" / "logs" / f"run{number:02d}"
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    forget_old_logs(str(tmp_path))
    kept = sorted(path.name for path in (tmp_path / "control" / "logs").iterdir())
    assert kept == [f"run{number:02d}" for number in range(12 - logs.KEPT_RUNS + 1, 12)]


def test_lines_of_cpp_are_dropped_and_others_pass(capfd: pytest.CaptureFixture[str]) -> None:
    with without_lines("Set ray log level"):
        os.write(2, b"[I 1] logging.cc:303: Set ray log level from RAY_BACKEND_LOG_LEVEL\nsomething real\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "something real\nafter\n"


def test_the_first_line_does_not_wait_for_what_is_heavy(tmp_path: Path) -> None:
    """Before it is said, none of the modules that take seconds is imported: a machine's speed does not decide this test."""
    heavy = ("ray", "torch", "pandas", "pyarrow", "fsspec", "soundfile")
    script = f"""
import sys
from jobs import tokenize_audio
tokenize_audio.LOG.info = lambda *_: sys.exit(",".join(name for name in {heavy} if name in sys.modules) or 7)
tokenize_audio.main(["--config", "configs/demo-light.yaml", "output={tmp_path}/out"])
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 7, result.stderr
