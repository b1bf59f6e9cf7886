"""For all tests: none reaches a model hub, and two processes share them so that a small machine is busy and not overrun."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported, which reads it once
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS = Path(__file__).parent
ON_RAY = ("jobs", "faults")
"""Folders whose tests start clusters: they take turns in one process, since a cluster takes the whole machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which tests stay together under `-n`: those on Ray, and those of a file, which share their fixtures."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        item.add_marker(pytest.mark.xdist_group("ray" if folder in ON_RAY else str(item.path)))
