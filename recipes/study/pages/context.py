"""What seconds further back are worth to a model, where it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from recipes.study.pages.page import table
from recipes.study.records.ledger import Ledger, Record


def context(ledger: Ledger, runs: Mapping[tuple[str, int], Record]) -> list[str]:
    """The section's parts, from what runs measured or their checkpoints later. `runs`: (arm, seed) -> record."""
    found = dict(ledger.all("losses"))
    for (arm, seed), record in runs.items():
        if "losses" in record["measures"]:
            found[f"{arm}-s{seed}"] = record["measures"]["losses"]
    if not found:
        return []
    names = list(next(iter(found.values()))["context"])
    rows = []
    for run, record in sorted(found.items()):
        bits = [record["context"][name] for name in names]
        gains = [f"{a - b:.2f}" for a, b in pairwise(bits)]
        places = " ".join(f"{cell[0]:.1f}" for cell in record["by_place"].values()) or "-"
        frames = " ".join(f"{cell[0]:.1f}" for cell in record["by_frame"].values())
        rows.append([run, f"{bits[0]:.2f}", *gains, places, frames])
    note = (
        "Bits per second that seconds further back gain (0 s: each second from nothing), and bits/s by place in the patch "
        "and by unit since the word began (`python -m model.score --losses`). Where seconds beyond 2.5 gain little, little "
        "can be said of what was heard: the second sentence and the ending take that long."
    )
    header = ["run", names[0], *(f"{a} to {b}" for a, b in pairwise(names)), "by place", "by unit of the word"]
    return ["## What context is worth", note, table(header, rows)]
