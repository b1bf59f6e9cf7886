"""Word boundaries against exact times: flite says sentences that no training text holds, and says when each phone was.

`unseen` is a voice that the tiny CTC never heard (rms), `seen` are the voices it was trained on (slt, awb, kal16).
Errors are over starts and ends of all words. Rivals in the same run: soundswallower (GMM, CMU dictionary) and
WhisperX's aligner over the same CTC model. `oracle emissions` feeds our aligner the true letter times instead of a
model's output: what its arithmetic alone costs.

Needs flite (Debian package flite1-dev) and assets/tiny-ctc; a rival that is not installed is left out and named on
stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Row, main
from pipeline.align.base import AlignError, WordAligner, WordTiming
from pipeline.align.ctc import align_emissions
from pipeline.align.ctc_model import Alphabet
from pipeline.text.tokens import Token, tokenise
from pipeline.words import make_aligner
from recipes.tiny_models import letters, speech
from recipes.tiny_models.settings import FRAME
from recipes.voices.store import Utterance
from schemas.config import ConfigError
from schemas.spec import CtcSpec, SoundSwallowerSpec, WhisperXAlignSpec

MODEL = Path(__file__).resolve().parents[1] / "assets" / "tiny-ctc"
OURS, GMM, WHISPERX, ORACLE = "tiny CTC", "soundswallower", "whisperx, same CTC", "oracle emissions"
GOALS = {"median": 15.0, "mean": 25.0, "within 50 ms": 92.0}
"""For the unseen voice: at most, at most, at least."""

Align = Callable[[Utterance, Sequence[Token]], Sequence[WordTiming | None]]


def run() -> list[Row]:
    """Rows per group of voices and metric.

    Raises:
        SystemExit: flite or the model is missing.
    """
    torch.set_num_threads(1)
    if not MODEL.is_dir():
        raise SystemExit(f"{MODEL} is missing: see recipes/tiny_models/README.md")
    try:
        groups = speech.held_out()
    except RuntimeError as error:
        raise SystemExit(str(error)) from error
    aligners = _aligners([item for items in groups.values() for item in items])
    rows = []
    for group, items in groups.items():
        measured = {name: _metrics(_errors(align, items)) for name, align in aligners.items()}
        for metric, goal in GOALS.items():
            value = measured[OURS][metric]
            holds = value >= goal if metric.startswith("within") else value <= goal
            for rival in [name for name in measured if name != OURS]:
                is_first = rival == GMM
                rows.append(
                    Row(
                        name=f"{group}: {OURS}, {metric}",
                        value=value,
                        unit="%" if metric.startswith("within") else "ms",
                        rival=rival,
                        rival_value=measured[rival][metric],
                        goal=f"{'>=' if metric.startswith('within') else '<='} {goal:g}" if is_first else "",
                        holds=holds if is_first and group == "unseen" else None,
                    )
                )
        for name in measured:
            rows.append(Row(name=f"{group}: {name}, words timed", value=measured[name]["timed"], unit="%"))
    return rows


def _aligners(items: list[Utterance]) -> dict[str, Align]:
    specs: dict[str, CtcSpec | SoundSwallowerSpec | WhisperXAlignSpec] = {
        OURS: CtcSpec(model=str(MODEL), min_score=0.0),
        GMM: SoundSwallowerSpec(),
        WHISPERX: WhisperXAlignSpec(model=str(MODEL), min_score=0.0),
    }
    aligners: dict[str, Align] = {}
    for name, spec in specs.items():
        try:
            aligner = make_aligner(spec)
            aligner.open()
        except (ConfigError, ImportError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        aligners[name] = partial(_align, aligner)
    table = letters.fit(letters.pronunciations(items))
    alphabet = Alphabet(labels=letters.VOCABULARY, blank=letters.BLANK, delimiter=letters.DELIMITER)

    def oracle(item: Utterance, tokens: Sequence[Token]) -> Sequence[WordTiming | None]:
        emissions = np.log(np.maximum(letters.frame_targets(item, table), 1e-5))
        return align_emissions(emissions, alphabet, FRAME, _floats(item), tokens, 0.0)

    return {**aligners, ORACLE: oracle}


def _align(aligner: WordAligner, item: Utterance, tokens: Sequence[Token]) -> Sequence[WordTiming | None]:
    return aligner.align(_floats(item), tokens, "en")


def _floats(item: Utterance) -> np.ndarray:
    return item.audio.astype(np.float32) / 32768


def _errors(align: Align, items: list[Utterance]) -> np.ndarray:
    """Absolute errors in ms of starts and ends, [words, 2]; NaN for a word without a time."""
    errors = []
    for item in items:
        tokens = tokenise(" ".join(item.words))
        assert len(tokens) == len(item.words)
        try:
            timings = align(item, tokens)
        except AlignError:
            timings = [None] * len(tokens)
        for timing, (start, end) in zip(timings, item.word_spans(), strict=True):
            found = (np.nan, np.nan) if timing is None else (timing.start - start, timing.end - end)
            errors.append(np.abs(found) / 16)
    return np.array(errors)


def _metrics(errors: np.ndarray) -> dict[str, float]:
    timed = errors[~np.isnan(errors)]
    return {
        "median": float(np.median(timed)),
        "mean": float(timed.mean()),
        "within 50 ms": float(100 * (timed <= 50).mean()),
        "timed": float(100 * len(timed) / errors.size),
    }


if __name__ == "__main__":
    main(run, __doc__)
