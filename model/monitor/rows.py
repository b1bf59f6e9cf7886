"""The columns of a training step's row, from what was counted and what the model's losses came to."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Sequence
from typing import Any

from model.data.packing import PackingConfig
from model.monitor.counting import Counts
from model.network.head import KINDS

LogRow = dict[str, Any]


def bits_per_second(nats_per_unit: float, seconds_per_unit: float) -> float:
    """The cross-entropy of units as bits per second of speech: what compares models over different unit rates."""
    return nats_per_unit / math.log(2) / seconds_per_unit


def speed(used: Counts, seconds: float, waited: float, world: int) -> LogRow:
    """Rates of a step, over all `world` ranks and per rank, and the share of its time that went into waiting for data."""
    rates = {
        "elements_per_second": used.elements / seconds,
        "latents_per_second": used.latents / seconds,
        "speech_seconds_per_second": used.speech_seconds / seconds,
    }
    per_rank = {f"{name}_per_rank": rate / world for name, rate in rates.items()}
    return {**rates, **per_rank, "data_wait_share": waited / seconds}


def fill(used: Counts, packing: PackingConfig, microbatches: int) -> LogRow:
    """Shares of the packing budgets that were used."""
    return {
        "fill_elements": used.elements / (packing.elements * microbatches),
        "fill_latents": used.latents / (packing.latents * microbatches),
        "fill_binding": used.binding / microbatches,
    }


def losses(sums: Sequence[float], by_kind: Sequence[float], used: Counts, sources: Sequence[str]) -> LogRow:
    """Mean losses of a step: in all, by modality, by source, per byte of text and per second of speech.

    Specials count as text, but in bits per byte, which is of text tokens alone.

    Args:
        sums: nll_text, nll_unit, num_text, num_unit.
        by_kind: nats by source and kind, [S * 3].
        used: what the step's batches hold.
        sources: names.
    """
    nll_text, nll_unit, num_text, num_unit = sums
    speech = nll_unit / num_unit if num_unit else None
    seconds_per_unit = used.speech_seconds / max(1.0, used.units)  # a token of a unit BPE lasts as long as its units
    row: LogRow = {
        "loss": (nll_text + nll_unit) / max(1.0, num_text + num_unit),
        "loss_text": nll_text / num_text if num_text else None,
        "loss_speech": speech,
        "bits_per_second_of_speech": None if speech is None else bits_per_second(speech, seconds_per_unit),
        "bits_per_byte_of_text": sum(by_kind[1::KINDS]) / math.log(2) / used.text_bytes if used.text_bytes else None,
        "num_text": int(num_text),
        "num_units": int(num_unit),
    }
    for number, name in enumerate(sources):
        nats, counted = (x[number * KINDS : (number + 1) * KINDS] for x in (by_kind, used.kinds))
        for modality, kinds in (("text", slice(0, 2)), ("speech", slice(2, 3))):
            if many := sum(counted[kinds]):
                row[f"source_{name}_loss_{modality}"] = sum(nats[kinds]) / many
    return row


def host_memory_peak() -> float:
    """GiB that this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
