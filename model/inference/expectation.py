"""What may be expected of a model's speech, in a sentence: from the losses of its run, against guessing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

BABBLE, CLOSE = 0.75, 0.5
"""Held-out loss as a share of guessing's: above the first it babbles, below the second it has learnt what follows what."""
BY_HEART = 0.5
"""A training loss below this share of the held-out one was learnt by heart."""


def speech_expectation(rows: Sequence[Mapping[str, Any]], num_units: int) -> str | None:
    """A sentence on the run whose metrics these are; None where it has not been validated on speech.

    Args:
        rows: the rows of metrics.jsonl.
        num_units: size of the vocabulary of units; guessing costs its logarithm.
    """
    held = [row["validation_loss_speech"] for row in rows if row.get("validation_loss_speech") is not None]
    trained = [row["loss_speech"] for row in rows[-10:] if math.isfinite(row.get("loss_speech") or math.nan)]
    if not held or not trained or num_units < 2:
        return None
    if not math.isfinite(held[-1]):
        return "Expect noise: what it has not heard costs no number of nats, so its training diverged."
    guess, now, seen = math.log(num_units), held[-1], sum(trained) / len(trained)
    figures = (
        f"a unit it has not heard costs {now:.2f} nats, guessing costs {guess:.2f}, and its training data {seen:.2f}"
    )
    if now > BABBLE * guess:
        verdict = "Expect babble"
    elif now > CLOSE * guess:
        verdict = "Expect sounds and pieces of words"
    else:
        verdict = "Expect words"
    heart = (
        "; it knows its training data by heart, so a prompt from there may come back" if seen < BY_HEART * now else ""
    )
    return f"{verdict}: {figures}{heart}."
