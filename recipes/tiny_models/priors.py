"""How common each letter is in the tiny CTC's output over its training speech: `python -m recipes.tiny_models.priors`.

The aligner divides the model's probabilities by these (label_priors.json beside the weights). A letter that is rare in English is
rare in the model's guesses wherever it is unsure, and would give way to its neighbours at every boundary.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipeline.align.ctc_model import PRIORS, CtcModel
from recipes.tiny_models import ctc, letters
from recipes.tiny_models.batches import load_corpus
from recipes.tiny_models.settings import assets, one_thread
from schemas.spec import CtcSpec

EVERY = 25
"""One training utterance in so many is listened to."""


def write(folder: Path) -> Path:
    """Measure the priors of the model in `folder` and write them there."""
    one_thread()
    (folder / PRIORS).unlink(missing_ok=True)  # what is measured is the model alone
    model = CtcModel(CtcSpec(model=str(folder), device="cpu"))
    model.open()
    total, frames = np.zeros(len(letters.VOCABULARY)), 0
    for item in load_corpus(ctc.SHARES).items[::EVERY]:
        probabilities = np.exp(model.log_probs(item.audio.astype(np.float32) / 32768))
        total += probabilities.sum(axis=0)
        frames += len(probabilities)
    priors = {label: round(float(share), 6) for label, share in zip(letters.VOCABULARY, total / frames, strict=True)}
    (folder / PRIORS).write_text(json.dumps(priors, indent=1) + "\n", encoding="utf-8")
    print(f"{folder / PRIORS}: over {frames / 50 / 60:.1f} minutes")
    return folder / PRIORS


if __name__ == "__main__":
    write(assets() / "tiny-ctc")
