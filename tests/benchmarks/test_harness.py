"""Every benchmark prints one table and writes the same rows as JSON."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import harness, run_all
from benchmarks.harness import Measurement, child, format_table, main
from benchmarks.stress import growth

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    Measurement(name="fast", value=2.0, unit="x", rival="slow", rival_value=1.0, goal=">= 1.5", holds=True),
    Measurement(name="missed", value=0.7, unit="share", goal=">= 0.9", holds=False),
]


def test_a_missed_goal_is_seen_in_the_table() -> None:
    lines = format_table(ROWS).splitlines()
    assert len({len(line) for line in lines}) == 1, "columns are not aligned"
    assert lines[2].split("|")[-2].strip() == "yes"
    assert lines[3].split("|")[-2].strip() == "NO"


def test_json_rows_have_the_agreed_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "rows.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--json", str(path)])
    with pytest.raises(SystemExit) as ended:
        main(lambda: ROWS, "a benchmark")
    assert ended.value.code == 0
    rows = json.loads(path.read_text())
    assert [set(row) for row in rows] == [{"name", "value", "unit", "rival", "rival_value", "goal", "holds"}] * 2
    assert [Measurement(**row) for row in rows] == ROWS


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_follows_the_form(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""')
    if path.stem not in ("__init__", "harness", "run_all", "tiny_models"):
        assert "def run() -> list[Measurement]:" in text
        assert "main(run, __doc__)" in text


def test_an_unknown_benchmark_is_one_sentence() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.run_all", "absent"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "no such benchmark: absent; there are" in result.stderr


def test_a_command_does_not_outlive_its_benchmark() -> None:
    with pytest.raises(RuntimeError), child([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        raise RuntimeError("the benchmark was stopped")
    assert process.returncode == -signal.SIGTERM


def test_a_benchmark_whose_time_is_up_ends_what_it_had_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed outright it left its Ray behind, beside which the others were then measured."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "slow.py").write_text(
        "import signal, sys, time\n"
        "def end(*_): open('ended', 'w').close(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "time.sleep(60)\n"
    )
    for module in (harness, run_all):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    assert "Not finished" in run_all.run_one("slow", time.monotonic() + 2.0)
    assert (tmp_path / "ended").exists()


def test_a_command_that_is_deaf_to_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.harness.PATIENCE", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with child([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
    assert process.returncode == -signal.SIGKILL


def test_the_summary_of_a_grown_corpus_is_measured_with_its_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """`catalog_of` makes it piece by piece, as it is read: nothing of it was made."""
    made = []
    plan = SimpleNamespace(is_complete=lambda: True)
    monkeypatch.setattr(growth, "make_plan", lambda *_, **__: plan)
    monkeypatch.setattr(growth, "catalog_of", lambda plan: (made.append(piece) for piece in range(3)))
    monkeypatch.setattr(growth, "format_summary", lambda outcome: "")
    growth.summary(SimpleNamespace())  # type: ignore[arg-type]
    assert made == [0, 1, 2]
