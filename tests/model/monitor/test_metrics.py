"""Metrics: rows that survive kills, rates that mean what they say, plots of several runs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model import plots
from model.monitor.metrics import Metrics, gemm_flops, read_rows, summary, truncate
from model.monitor.rows import bits_per_second


def rows_of(count: int) -> list[dict[str, float]]:
    return [
        {
            "step": i,
            "loss": 3 - i / 10,
            "loss_text": 3 - i / 10,
            "loss_speech": 4 - i / 10,
            "bits_per_second_of_speech": 90.0,
        }
        for i in range(1, count + 1)
    ]


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(3)) + '{"step": 4, "lo')
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3]
    truncate(path, 2)
    assert [row["step"] for row in read_rows(path)] == [1, 2]
    metrics = Metrics(tmp_path, first_step=2)
    metrics.write({"step": 3})
    metrics.close()
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3]


def test_bits_per_second() -> None:
    """A uniform guess among 500 units at 25 Hz is 25 log2(500) bits a second, at any unit rate the same entropy per second."""
    assert bits_per_second(math.log(500), 1 / 25) == pytest.approx(25 * math.log2(500))


def test_the_summary_has_one_line_per_modality() -> None:
    text, speech = summary(rows_of(20)).splitlines()
    assert text == "text    loss 2.850 -> 1.050 nats per token"
    assert speech == "speech  loss 3.850 -> 2.050 nats per unit, 90.0 bits per second of speech"
    assert summary([{"step": 1, "loss_text": 2.0, "loss_speech": None}]).count("\n") == 0


def test_the_measured_rate_is_a_rate() -> None:
    """Four times the operations take longer; the rate stays within an order of magnitude."""
    small, large = (gemm_flops(torch.device("cpu"), torch.float32, size) for size in (256, 512))
    assert 0.1 < small / large < 10


def test_plots_of_several_runs(tmp_path: Path) -> None:
    """The command line writes one PNG with a line per run, and names a run that is not there."""
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(30)))
    out = tmp_path / "plots" / "losses.png"
    command = [sys.executable, "-m", "model.plots", "--out", str(out)]
    done = subprocess.run(
        [*command, str(tmp_path / "a"), str(tmp_path / "b")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")
    done = subprocess.run([*command, str(tmp_path / "c")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "metrics.jsonl does not exist" in done.stderr


def test_runs_of_one_name_are_all_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `a/seed-1` and `b/seed-1` one was drawn."""
    for name in ("a/seed-1", "b/seed-1", "c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(3)))
    monkeypatch.chdir(tmp_path)
    drawn: list[str] = []
    monkeypatch.setattr(plots, "plot", lambda runs, *_: drawn.extend(runs))
    assert plots.main(["a/seed-1", "b/seed-1/", "c", "c/metrics.jsonl", "--out", "out.png"]) == 0
    assert drawn == ["a/seed-1", "b/seed-1/", "c", "c/metrics.jsonl"]
