"""torch's profiler and CUDA's memory history over a window of steps, into files of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

ROWS = 40
"""Of the table of operations."""


class StepProfiler:
    """Watches steps [first, last], counted from 1. Call `begin` before a step and `end` after it.

    profile/steps-10-12-rank-0.trace.json.gz    for chrome://tracing or ui.perfetto.dev
    profile/steps-10-12-rank-0.txt              operations by their own time
    profile/steps-10-12-rank-0.memory.pickle    on CUDA with `memory`: for pytorch.org/memory_viz
    """

    def __init__(self, folder: Path, first: int, last: int, memory: bool, rank: int, device: torch.device) -> None:
        self._first, self._last, self._memory, self._cuda = first, last, memory, device.type == "cuda"
        self._stem = folder / "profile" / f"steps-{first}-{last}-rank-{rank}"
        self._profiler: Any = None

    def begin(self, step: int) -> None:
        """Step `step` is about to be started."""
        if step != self._first or self._profiler is not None:
            return
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
        if self._memory and self._cuda:
            torch.cuda.memory._record_memory_history(max_entries=100_000)
        self._profiler = profile(activities=activities, profile_memory=self._memory, record_shapes=True)
        self._profiler.start()

    def end(self, step: int) -> None:
        """Step `step` has been started, and on a CPU is done."""
        if step >= self._last:
            self.close()

    def close(self) -> None:
        """Write what was seen, if something was; a run that ends within the window has a shorter one."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        if self._cuda:
            torch.cuda.synchronize()
        profiler.stop()
        self._stem.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(f"{self._stem}.trace.json.gz")
        by = "self_device_time_total" if self._cuda else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=by, row_limit=ROWS)
        Path(f"{self._stem}.txt").write_text(table, encoding="utf-8")
        if self._memory and self._cuda:
            torch.cuda.memory._dump_snapshot(f"{self._stem}.memory.pickle")
            torch.cuda.memory._record_memory_history(enabled=None)
