"""One part of the GPU's check that dies, hangs or spoils its process must not cost the others: no GPU is needed to see that."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from model.gpu.apart import python, supervised

ROOT = Path(__file__).parents[3]

PIECES = """
import os, signal, sys, time
from pathlib import Path
from model.gpu.apart import work_through

def passes(name): return lambda: {"name": name, "status": "passed", "process": os.getpid()}
def hangs():
    time.sleep(60)
work = {
    "first": passes("first"),
    "second": passes("second"),
    "dies": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "raises": lambda: {"name": "raises", "status": "failed", "why": "no such kernel"},
    "after": passes("after"),
    "hangs": hangs,
    "last": passes("last"),
}
sys.exit(work_through(Path(sys.argv[1]), work))
"""

TESTS = """
import os, pytest

def test_passes(): pass
def test_fails(): assert 1 == 2
@pytest.mark.skip(reason="needs two")
def test_skipped(): pass
def test_faults(): raise RuntimeError("CUDA error: an illegal memory access was encountered")
def test_after_a_fault(): assert not os.environ.get("SPOILT")
def test_dies(): os._exit(3)
def test_last(): pass
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


def statuses(results: list[dict[str, Any]]) -> dict[str, str]:
    return {result["name"]: result["status"] for result in results}


def test_what_dies_hangs_or_raises_loses_nothing_but_itself(tmp_path: Path) -> None:
    results = list(supervised(python("-c", PIECES), tmp_path / "record", each=6.0, until=time.monotonic() + 90))
    failed = dict.fromkeys(("dies", "raises", "hangs"), "failed")
    passed = dict.fromkeys(("first", "second", "after", "last"), "passed")
    assert statuses(results) == failed | passed
    by_name = {result["name"]: result for result in results}
    assert "-11" in by_name["dies"]["why"]
    assert by_name["raises"]["why"] == "no such kernel"
    assert "still running" in by_name["hangs"]["why"]
    assert by_name["first"]["process"] == by_name["second"]["process"] != by_name["after"]["process"]


def test_what_changes_its_process_is_the_last_thing_there(tmp_path: Path) -> None:
    code = PIECES.replace(
        "work_through(Path(sys.argv[1]), work)", "work_through(Path(sys.argv[1]), work, anew={'first'})"
    )
    code = code.replace('"dies"', '"dies_not"').replace("os.kill(os.getpid(), signal.SIGSEGV)", "passes('dies_not')()")
    code = (
        code.replace('"hangs": hangs,', "")
        .replace('"raises": lambda', '"raises_not": lambda')
        .replace("failed", "passed")
    )
    results = list(supervised(python("-c", code), tmp_path / "record", each=20.0, until=time.monotonic() + 60))
    first, second, third, *_ = [result.get("process") for result in results]
    assert first != second == third


def test_nothing_goes_on_past_the_end(tmp_path: Path) -> None:
    begun = time.monotonic()
    code = PIECES.replace('"first": passes("first")', '"first": hangs')
    results = list(supervised(python("-c", code), tmp_path / "record", each=60, until=begun + 6))
    assert statuses(results) == {"first": "failed"}
    assert time.monotonic() - begun < 30


def test_a_process_that_never_begins_is_said_once(tmp_path: Path) -> None:
    code = "import no_such_module"
    (result,) = supervised(python("-c", code), tmp_path / "record", each=20, until=time.monotonic() + 20)
    assert (result["name"], result["status"]) == ("start", "failed")
    assert "No module named" in result["why"]


def test_tests_that_fault_or_die_lose_nothing_but_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a second less for each start
    (tmp_path / "test_some.py").write_text(TESTS)
    options = ("-q", "-p", "no:cacheprovider", "-p", "model.gpu.recorder", "--rootdir", str(tmp_path))
    command = python("-m", "pytest", *options, str(tmp_path), "--record")
    results = list(supervised(command, tmp_path / "record", each=20, until=time.monotonic() + 60))
    assert statuses(results) == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_skipped": "not run",
        "test_faults": "failed",
        "test_after_a_fault": "passed",
        "test_dies": "failed",
        "test_last": "passed",
    }
    assert len(results) == 7
    why = {result["name"]: result.get("why", "") for result in results}
    assert "1 == 2" in why["test_fails"]
    assert "needs two" in why["test_skipped"]
    assert "ended with 3" in why["test_dies"]


BARE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
import model.gpu.speed, model.gpu_check, model.train, model.training.loop
"""


def test_a_bare_machine_needs_only_the_wheels_that_are_named() -> None:
    """Nothing of the pipeline, of storage or of evaluation is loaded by what measures."""
    others = (
        "pyarrow",
        "pandas",
        "ray",
        "transformers",
        "numba",
        "soundfile",
        "hypothesis",
        "torchaudio",
        "s3fs",
        "scipy",
    )
    done = subprocess.run([sys.executable, "-c", BARE, *others], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-600:]
