"""Generation of speech units on this CPU, unit by unit, greedily, from a prompt of units.

The rival is `transformers`' BLT port at the same sizes and patch lengths. Its cache covers the local modules and not the
global one, so with patches of four units it can only generate by a forward pass over the whole sequence for each unit: that
is what is timed.
"""

from __future__ import annotations

import time

import torch

from benchmarks.harness import Row, main, seconds_per_call
from benchmarks.model_step import (
    PATCH,
    UNITS_PER_SECOND,
    VOCABULARY,
    blt_port,
    lst_config,
    plain_config,
    port_patch_lengths,
    speech_batch,
)
from model.config import ModelConfig
from model.inference import Session
from model.lst import build_model
from model.patching import StaticConfig

PROMPT, GENERATED, ROWS = 512, 64, 8


def seconds_per_unit(config: ModelConfig, dtype: torch.dtype, rows: int) -> float:
    """Seconds per step of `rows` sequences, after a prompt that is not counted."""
    model = build_model(config, seed=0).to(dtype).eval()
    session = Session(model, StaticConfig(policy="static", size=PATCH), rows, capacity=PROMPT + GENERATED)
    prompt = speech_batch().ids_N[:PROMPT].tolist()
    logits = session.prefill([prompt] * rows)
    start = time.perf_counter()
    for _ in range(GENERATED):
        units = logits[:, VOCABULARY.unit_offset :].argmax(-1) + VOCABULARY.unit_offset
        logits = session.feed(units.tolist())
    return (time.perf_counter() - start) / GENERATED


def seconds_per_unit_of_port(dtype: torch.dtype) -> float:
    """Seconds per unit of the port at the middle of the generated stretch."""
    config = lst_config()
    model = blt_port(config).to(dtype).eval()
    length = PROMPT + GENERATED // 2
    batch = speech_batch()
    ids = batch.ids_N[None, :length]
    lengths = port_patch_lengths(batch).cumsum(1)
    lengths = (
        lengths[:, : int((lengths < length + 1).sum()) + 1].clamp(max=length + 1).diff(dim=1, prepend=torch.zeros(1, 1))
    )

    def forward() -> None:
        with torch.inference_mode():
            model(input_ids=ids, patch_lengths=lengths.long(), use_cache=False, logits_to_keep=1)

    return seconds_per_call(forward, 3)


def run() -> list[Row]:
    """One sequence against the port, then rows side by side."""
    lst, rows = lst_config(), []
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        ours, port = seconds_per_unit(lst, dtype, 1), seconds_per_unit_of_port(dtype)
        rows.append(
            Row(
                name=f"generation, {name}", value=1 / ours, unit="units/s", rival="BLT port", rival_value=1 / port,
                goal=">= 10x", holds=port / ours >= 10,
            )
        )  # fmt: skip
        rows.append(Row(name=f"real-time factor, {name}", value=1 / ours / UNITS_PER_SECOND, unit="s of speech per s"))
    plain, many = seconds_per_unit(plain_config(lst), torch.float32, 1), seconds_per_unit(lst, torch.float32, ROWS)
    single = next(row.value for row in rows if row.name == "generation, float32")
    rows.append(Row(name="LST, float32", value=single, unit="units/s", rival="plain baseline", rival_value=1 / plain))
    rows.append(Row(name=f"{ROWS} rows, float32", value=ROWS / many, unit="units/s", rival="1 row", rival_value=single))
    return rows


if __name__ == "__main__":
    main(run, __doc__)
