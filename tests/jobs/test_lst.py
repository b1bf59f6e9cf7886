"""One door: every command by its name, at once, and of the checkout that one stands in."""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.lst import checkout_of, main
from jobs.reference.commands import COMMANDS, MODULES
from tests.jobs.small_corpus import ROOT, second_clone, who_ran

AS_INSTALLED = "import sys; from jobs.lst import enter; sys.argv[0] = 'lst'; sys.exit(enter())"
"""What the console script does."""


def lst(*words: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """The console command of an environment that was installed from this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", AS_INSTALLED, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=100)


def test_help_names_every_command_in_its_group_and_takes_no_time() -> None:
    """Processor time: what others on the machine take from it does not decide this test."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = lst("--help").stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 3, "0.05 s where nothing else runs: does it import the commands?"
    for group, members in COMMANDS.items():
        assert f"\n{group}\n" in said
        for name, (_, what) in members.items():
            assert any(line.split()[:1] == [name] and line.endswith(what) for line in said.splitlines())


@pytest.mark.parametrize("module", sorted(MODULES.values()))
def test_every_command_is_a_framed_main(module: str) -> None:
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    assert "@command\ndef main(arguments: Sequence[str] | None = None) -> int:" in Path(found.origin).read_text("utf-8")


def test_every_script_and_module_with_a_main_has_its_name() -> None:
    files = [*(ROOT / "jobs").glob("*.py"), *(ROOT / "model").glob("*.py")]
    commands = {f"{path.parent.name}.{path.stem}" for path in files if "@command" in path.read_text("utf-8")}
    assert commands - set(MODULES.values()) == {"jobs.lst", "model.gpu_check"}, "lst itself, and the half of gpu-check"


def test_an_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenise"]) == 2
    assert capsys.readouterr().err == "error: lst has no command 'tokenise': did you mean 'tokenize'?\n"


def test_a_command_calls_itself_by_the_name_that_it_was_called_by() -> None:
    assert lst("gc", "--help").stdout.startswith("usage: lst gc ")
    script = subprocess.run([sys.executable, "jobs/gc.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert script.stdout.startswith("usage: python jobs/gc.py ")


def test_started_in_a_second_clone_it_runs_that_clone(tmp_path: Path) -> None:
    clone = second_clone(tmp_path / "clone")
    assert checkout_of(clone / "configs" / "model") == clone
    for folder in (clone, clone / "configs"):
        assert lst("import-centroids", "--help", cwd=folder).returncode == 0
        assert who_ran(clone) == {"lst import-centroids"}
    assert lst("import-centroids", "--help", cwd=tmp_path).returncode == 0
    assert who_ran(clone) == set(), "outside of any checkout it is the installed one"
    for script in (
        clone / "jobs" / "import_centroids.py",
        Path(os.path.relpath(clone / "jobs" / "fit_kmeans.py", ROOT)),
    ):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(
            [sys.executable, str(script), "--help"], cwd=ROOT, env=environment, check=True, capture_output=True
        )
        assert who_ran(clone) == {script.name}


@pytest.mark.parametrize(
    "line,offered", [("lst sco", {"score"}), ("lst gc --st", {"--stale"}), ("lst tokenize --only tr", {"transcripts"})]
)
def test_the_shell_completes_commands_options_and_values(line: str, offered: set[str]) -> None:
    """As argcomplete's hook in the shell asks: the answers on file descriptor 8."""
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n"}
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{AS_INSTALLED}" 8>&1 9>/dev/null >/dev/null'],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **asked},
        capture_output=True,
        text=True,
    )
    assert {word.strip() for word in done.stdout.split("\n")} - {""} == offered
