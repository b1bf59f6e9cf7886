"""Which split a story belongs to: decided by its skeleton alone, so that no test skeleton can occur in training."""

from __future__ import annotations

from typing import Literal

from recipes.stories.world import Event, skeleton

Split = Literal["train", "dev", "test"]

SHARES = {"test": range(10), "dev": range(10, 20), "train": range(20, 100)}
"""Buckets of 100 by the skeleton's hash."""


def split_of(events: tuple[Event, ...]) -> Split:
    """The split that a story belongs to: a function of what happens in it, so that no retelling crosses over."""
    bucket = int(skeleton(events)[:8], 16) % 100
    if bucket in SHARES["test"]:
        return "test"
    return "dev" if bucket in SHARES["dev"] else "train"
