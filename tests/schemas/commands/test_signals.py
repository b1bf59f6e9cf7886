"""A signal unwinds a command wherever its main thread is: dropped exceptions, imports and foreign code included."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from schemas.commands import signals
from schemas.commands.cli import run_command
from schemas.errors import ExitCode
from tests.schemas.commands.stuck import STUCK

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_unwinds_the_command(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    """`finally` runs, the code is 75, and the handlers from before are back."""
    done = []

    def main(arguments: Sequence[str] | None) -> int:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            done.append(True)
        return 0

    before = signal.getsignal(number)
    assert run_command(main, []) == ExitCode.TRY_AGAIN
    assert f"stopped by {number.name}" in capsys.readouterr().err
    assert done
    assert signal.getsignal(number) is before


def test_a_signal_that_python_drops_comes_again(capsys: pytest.CaptureFixture[str]) -> None:
    """What is raised while an object is collected goes nowhere."""

    class Collected:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def main(arguments: Sequence[str] | None = None) -> int:
        Collected()
        time.sleep(5)
        return 0

    before = signal.getsignal(signal.SIGINT)
    assert run_command(main, []) == ExitCode.TRY_AGAIN
    assert capsys.readouterr().err == "error: stopped by SIGINT; run it again to go on\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_a_library_swallows_comes_again(capsys: pytest.CaptureFixture[str]) -> None:
    """`except BaseException: pass`, as generated code and retries have it."""

    def main(arguments: Sequence[str] | None = None) -> int:
        with suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        time.sleep(20)
        return 0

    begin = time.monotonic()
    assert run_command(main, []) == ExitCode.TRY_AGAIN
    assert time.monotonic() - begin < 10
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_what_is_saved_on_the_way_out_is_left_in_peace() -> None:
    """A command that takes longer to end than a dropped signal is given is not signalled again."""
    saved = []

    def main(arguments: Sequence[str] | None = None) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            try:
                int("a part of it fails")
            except ValueError:
                time.sleep((signals.DROPPED + 1.5) * signals.LOOK)
            saved.append(True)
        return 0

    assert run_command(main, []) == ExitCode.TRY_AGAIN
    assert saved


@pytest.fixture
def signalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that sends a signal while it is imported."""
    (tmp_path / "signalled.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nDONE = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "signalled"
    assert sys.modules.pop("signalled").DONE


def test_no_import_is_interrupted(signalled: str) -> None:
    """An exception in the middle of a native module's start aborts the process.

    The signal waits for its end, and is not lost where the module holds a command of its own, as under `lst`.
    """

    def inner(arguments: Sequence[str] | None = None) -> int:
        time.sleep(20)
        return 0

    def main(arguments: Sequence[str] | None = None) -> int:
        assert importlib.import_module(signalled).DONE
        return run_command(inner, [])

    begin = time.monotonic()
    assert run_command(main, []) == ExitCode.TRY_AGAIN
    assert time.monotonic() - begin < 10


def test_who_takes_signals_over_after_an_import_receives_it(signalled: str) -> None:
    """As training does, which saves first."""
    before = signal.getsignal(signal.SIGINT)  # a shell's background job starts with SIGINT ignored
    received = []

    def main(arguments: Sequence[str] | None = None) -> int:
        importlib.import_module(signalled)
        signal.signal(signal.SIGINT, lambda number, _: received.append(number))
        time.sleep(3 * signals.LOOK)
        return 0

    assert run_command(main, []) == 0
    assert received == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is before


def test_foreign_code_that_does_not_come_back_is_ended() -> None:
    code = STUCK + (
        "import schemas.commands.signals as signals\nfrom schemas.commands.cli import run_command\n"
        "signals.PATIENCE = 0.5\nrun_command(lambda words: stick(signal.SIGTERM), [])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (75, "error: stopped by SIGTERM; run it again to go on\n")


def test_where_nothing_is_kept_the_end_is_soon_and_takes_others_along() -> None:
    """Also where stderr is not the one it was, as while Ray starts."""
    code = STUCK + (
        "import schemas.commands.signals as signals\nfrom schemas.commands.cli import run_command\n"
        "signals.LITTLE_PATIENCE = 0.5\n"
        "def main(words):\n"
        "    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)\n"
        "    with signals.nothing_to_keep(lambda: print('others ended', flush=True)):\n"
        "        stick(signal.SIGTERM)\n"
        "run_command(main, [])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (75, "others ended\n")
    assert done.stderr == "error: stopped by SIGTERM; run it again to go on\n"


def test_a_forked_child_is_not_heard_by_its_parent() -> None:
    """Its handlers write into ears of nobody's."""

    def main(arguments: Sequence[str] | None = None) -> int:
        ready, listens = os.pipe()
        child = os.fork()
        if not child:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
            os.write(listens, b"x")
            while True:
                signal.pause()
        assert os.read(ready, 1) == b"x"
        os.close(ready)
        os.close(listens)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        return 0

    heard: list[int] = []
    with signals.heard_at_once(heard.append):
        assert run_command(main, []) == 0
        assert main() == 0
    assert not heard


def test_an_interrupted_process_leaves_without_taking_python_down() -> None:
    """What is registered for the exit runs, and what is said is written; native code is not asked to tidy up."""
    code = (
        "import atexit, signal, sys\nfrom schemas.commands.cli import run_command\n"
        "class Crash:\n    def __del__(self):\n        import os; os.abort()\n"
        "crash = Crash()\natexit.register(print, 'tidied up')\nsys.argv[1:] = []\n"
        "run_command(lambda words: signal.raise_signal(signal.SIGTERM))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (75, "tidied up\n")


def test_the_exit_of_rays_own_handler_is_a_stop(capsys: pytest.CaptureFixture[str]) -> None:
    """While Ray starts, SIGTERM is `sys.exit(15)`; other exits are whoever's they are."""
    assert run_command(lambda words: sys.exit(signal.SIGTERM), []) == ExitCode.TRY_AGAIN
    assert "stopped by SIGTERM" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        run_command(lambda words: sys.exit(3), [])
    assert ended.value.code == 3


def test_the_listening_thread_ends_with_the_command() -> None:
    """Also where a forked child has a copy of what it listens to. One that stands when Python goes down aborts the process."""
    children = []

    def main(arguments: Sequence[str] | None = None) -> int:
        children.append(os.fork())
        if not children[0]:
            time.sleep(30)
            os._exit(0)
        return 0

    assert run_command(main, []) == 0
    listening = [thread for thread in threading.enumerate() if thread.name == "signals"]
    os.kill(children[0], signal.SIGKILL)
    os.waitpid(children[0], 0)
    assert not listening
