"""Freed memory stays with the process, so that a small model's steps do not spend their time in page faults."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def steady_memory() -> None:
    """Ask glibc not to give freed memory back: a page fault per large tensor and step can cost a third of a step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, (1 << 31) - 1), (M_TOP_PAD, 64 << 20)):
        mallopt(parameter, value)
