"""What a process has freed goes back to the system, and not all the time."""

from __future__ import annotations

import sys

import numpy as np
import psutil
import pytest

from jobs.cluster import limits

MIB = 2**20


def holes(count: int = 2000) -> list[np.ndarray]:
    """What is left of 200 MiB in blocks too small for a mapping of their own, freed but for every fiftieth."""
    return [np.ones(100 * 1024 // 4, np.float32) for _ in range(count)][::50]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_freed_memory_goes_back_though_what_is_in_use_lies_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    freed = limits.FreedMemory()
    kept = holes()
    held = psutil.Process().memory_info().rss
    freed.give_back()  # made a moment ago
    assert psutil.Process().memory_info().rss > held - 10 * MIB
    monkeypatch.setattr(limits, "RETURN_SECONDS", 0.0)
    freed.give_back()
    assert psutil.Process().memory_info().rss < held - 150 * MIB
    assert all(block.all() for block in kept)
