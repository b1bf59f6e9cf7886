"""What a run reports: metrics.jsonl, a progress bar, and one line per modality at the end."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from model.monitor.boards import Board
from model.monitor.rows import LogRow
from schemas.files import whole_file


class Metrics:
    """Writes one row per step. Rows past the step that a run resumes from are dropped first: they will come again."""

    def __init__(self, folder: Path, *, first_step: int, boards: Sequence[Board] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        truncate(self.path, first_step)
        self._file = self.path.open("a", encoding="utf-8")
        self._boards = boards

    def write(self, row: LogRow) -> None:
        """Append a row; it is in the file when this returns."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for board in self._boards:
            board.write(row)

    def sound(self, name: str, samples: np.ndarray, step: int) -> None:
        """Something to hear, float32 at 16 kHz, on every board."""
        for board in self._boards:
            board.sound(name, samples, step)

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        for board in self._boards:
            board.close()


def read_rows(path: Path) -> list[LogRow]:
    """The rows of a metrics.jsonl, none where it does not exist; a last line that a kill cut short is left out."""
    return parse_rows(path.read_text(encoding="utf-8")) if path.exists() else []


def parse_rows(text: str) -> list[LogRow]:
    """The rows of a metrics.jsonl's content, up to a line that a kill cut short."""
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def truncate(path: Path, steps: int) -> None:
    """Keep the rows of the first `steps` steps."""
    if path.exists():
        kept = [row for row in read_rows(path) if row["step"] <= steps]
        with whole_file(path) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


PUBLISHED_PEAKS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "H200": 989.4e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "RTX 4090": 165.2e12,
}
"""Dense bf16 operations per second from NVIDIA's data sheets (half of what they state "with sparsity"), by words of the name
that CUDA reports; more words win."""


def published_peak(device: torch.device) -> float | None:
    """The card's dense bf16 rate as its maker states it; None for a card that is not in the table."""
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Published dense bf16 operations per second of a GPU, by the name that CUDA gives it; None for a card that is not listed."""
    words = name.replace("-", " ").split()
    known = [part for part in PUBLISHED_PEAKS if all(word in words for word in part.split())]
    return PUBLISHED_PEAKS[max(known, key=len)] if known else None


def gemm_flops(device: torch.device, dtype: torch.dtype, size: int = 1024, seconds: float = 0.1) -> float:
    """The machine's own rate: operations per second of a square matrix product, the best of many."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, begin = math.inf, time.perf_counter()
    while time.perf_counter() - begin < seconds or best == math.inf:
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class ProgressBar:
    """A bar a person can read on a terminal; elsewhere a line every `every` seconds."""

    def __init__(self, *, show: bool, every: float = 15.0) -> None:
        self._bar = None
        self._show, self._every, self._spoke = show, every, -math.inf
        if show and sys.stderr.isatty():
            form = "{percentage:3.0f}% |{bar:20}| {desc}"
            self._bar = tqdm(total=1.0, bar_format=form, dynamic_ncols=True)

    def update(self, row: LogRow, progress: float, seconds_left: float | None) -> None:
        """Show a step."""
        if not self._show:
            return
        if self._bar is not None:
            self._bar.n = min(1.0, progress)
            self._bar.set_description_str(_line(row, seconds_left), refresh=True)
        elif time.monotonic() - self._spoke >= self._every:
            self._spoke = time.monotonic()
            print(f"{100 * min(1.0, progress):3.0f}%  {_line(row, seconds_left)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _line(row: LogRow, seconds_left: float | None) -> str:
    parts = [f"step {row['step']}"]
    parts += [f"{name} {row['loss_' + name]:.3f}" for name in ("text", "speech") if row.get("loss_" + name) is not None]
    parts.append(f"{row['speech_seconds_per_second']:.0f} s of speech/s")
    parts.append(f"{100 * row['share_of_peak']:.0f} % of peak")
    if row["data_wait_share"] > 0.01:
        parts.append(f"waiting for data {100 * row['data_wait_share']:.0f} %")
    if seconds_left is not None:
        minutes, seconds = divmod(int(seconds_left), 60)
        parts.append(f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left")
    return "  ".join(parts)


def summary(rows: list[LogRow]) -> str:
    """One line per modality: the loss at the start (mean of the first tenth of the steps) and at the end (last tenth)."""
    lines = []
    for name in ("text", "speech"):
        losses = [row[f"loss_{name}"] for row in rows if row.get(f"loss_{name}") is not None]
        if not losses:
            continue
        tenth = max(1, len(losses) // 10)
        first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
        line = f"{name:<7} loss {first:.3f} -> {last:.3f} nats per {'token' if name == 'text' else 'unit'}"
        if name == "speech":
            bits = [
                row["bits_per_second_of_speech"] for row in rows if row.get("bits_per_second_of_speech") is not None
            ]
            line += f", {sum(bits[-tenth:]) / tenth:.1f} bits per second of speech"
        held = [row[f"validation_loss_{name}"] for row in rows if row.get(f"validation_loss_{name}") is not None]
        if held:
            line += f"; held out {held[0]:.3f} -> {held[-1]:.3f}"
        lines.append(line)
    return "\n".join(lines)
