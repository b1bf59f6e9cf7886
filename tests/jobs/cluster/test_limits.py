"""What a process has freed goes back to the system, and not all the time; of what libraries keep for later little is kept."""

from __future__ import annotations

import os
import subprocess
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


LENGTHS = """
import torch
from jobs.cluster.limits import limit_libraries
limit_libraries(1)
layer = torch.nn.Conv1d(16, 16, 10, stride=5)
def convolve(length):
    print("length", length, flush=True)
    with torch.inference_mode():
        layer(torch.zeros(1, 16, length))
for length in (4000, 4000, *range(4010, 4010 + 10 * %d, 10), 4000):
    convolve(length)
"""


@pytest.mark.parametrize(("said", "kept"), [({}, False), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}, True)])
def test_operations_are_kept_for_the_next_of_a_length_and_not_for_all_that_ever_were(
    said: dict[str, str], kept: bool
) -> None:
    environment = {name: value for name, value in os.environ.items() if "ONEDNN" not in name}
    done = subprocess.run(
        [sys.executable, "-c", LENGTHS % limits.KEPT_OPERATIONS],
        env=environment | {"ONEDNN_VERBOSE": "2"} | said,
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, *_, last = [
        "create:cache_miss" not in of_length for of_length in done.stdout.split("length ")[1:] if "create:" in of_length
    ] or pytest.skip("torch without oneDNN")
    assert (first, second, last) == (False, True, kept)
