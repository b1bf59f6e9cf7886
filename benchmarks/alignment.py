"""Word boundaries against exact times: flite says sentences that no training text holds, and says when each phone was.

`unseen` is a voice that no model here heard (rms), `seen` are voices of the training (slt, awb, kal16). The other groups are
`unseen` in a room (T60 0.4 s, the tail 10 dB above the direct sound), on the telephone (300 to 3400 Hz), and in that room, on
that telephone, under white noise of 10 dB: only the sound is degraded, the times stay exact. `kennedy` is the demo's 1961
recording, against soundswallower's times. Errors are over starts and ends of all words.

Rivals in the same run: soundswallower (GMM, CMU dictionary), the tiny CTC, and WhisperX's aligner over the tiny CTC.
`oracle emissions` feeds our aligner the true letter times instead of a model's output: what its arithmetic alone costs.

Needs flite (Debian package flite1-dev), the shipped models and `make models`; a rival that is not installed is left out and
named on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Measurement, main
from pipeline.align.base import AlignError, WordAligner, WordTiming
from pipeline.align.ctc import align_emissions
from pipeline.align.ctc_model import Alphabet
from pipeline.text.tokens import Token, tokenise
from pipeline.words import make_aligner
from recipes.tiny_models import degrade, letters, speech
from recipes.tiny_models.corpus import real_clips
from recipes.tiny_models.settings import FRAME
from recipes.voices.store import VoicedSentence
from schemas.config import ConfigError
from schemas.spec import CtcSpec, SoundSwallowerSpec, WhisperXAlignSpec

ROOT = Path(__file__).resolve().parents[1]
OURS, GMM, TINY = "whisper letters", "soundswallower", "tiny CTC"
WHISPERX, ORACLE = "whisperx, tiny CTC", "oracle emissions"
MEDIAN, MEAN, WITHIN = "median", "mean", "within 50 ms"
GOALS = {
    ("unseen", MEDIAN): 10.0,
    ("unseen", WITHIN): 96.0,
    ("room", MEDIAN): 16.0,
    ("room", WITHIN): 90.0,
    ("room, telephone, noise", MEAN): 35.0,
    ("room, telephone, noise", WITHIN): 82.0,
    ("kennedy", MEAN): 35.0,
}
"""At most for times, at least for shares."""
T60, DIRECT_DB, SNR_DB = 0.4, -10.0, 10.0

Align = Callable[[VoicedSentence, Sequence[Token]], Sequence[WordTiming | None]]


def run() -> list[Measurement]:
    """Rows per group of speech, metric and rival.

    Raises:
        SystemExit: flite or a shipped model is missing.
    """
    torch.set_num_threads(1)
    try:
        groups = speech.held_out()
    except RuntimeError as error:
        raise SystemExit(str(error)) from error
    aligners = _aligners([item for items in groups.values() for item in items])
    unseen = groups["unseen"]
    groups |= {name: [_degraded(item, seed, name) for seed, item in enumerate(unseen)] for name in CONDITIONS}
    groups["kennedy"] = [clip for clip in real_clips(unseen=True) if "jfk" in clip.voice]
    return [row for group, items in groups.items() for row in _rows(group, items, aligners)]


def _rows(group: str, items: list[VoicedSentence], aligners: dict[str, Align]) -> list[Measurement]:
    exact = group in ("seen", "unseen")
    wanted = [name for name in aligners if name not in (WHISPERX, ORACLE) or exact]
    wanted = [name for name in wanted if name != GMM or group != "kennedy"]  # its own times are the reference there
    measured = {name: _metrics(_errors(aligners[name], items)) for name in wanted}
    rows = []
    for metric in (MEDIAN, MEAN, WITHIN):
        value, goal = measured[OURS][metric], GOALS.get((group, metric))
        share = metric == WITHIN
        for number, rival in enumerate(name for name in measured if name != OURS):
            told = goal is not None and number == 0
            rows.append(
                Measurement(
                    name=f"{group}: {OURS}, {metric}",
                    value=value,
                    unit="%" if share else "ms",
                    rival=rival,
                    rival_value=measured[rival][metric],
                    goal=f"{'>=' if share else '<='} {goal:g}" if told else "",
                    holds=(value >= goal if share else value <= goal) if told and goal is not None else None,
                )
            )
    for name in measured:
        rows.append(Measurement(name=f"{group}: {name}, words timed", value=measured[name]["timed"], unit="%"))
    return rows


CONDITIONS = {
    "room": ("room",),
    "telephone": ("telephone",),
    "room, telephone, noise": ("room", "telephone", "noise"),
}


def _degraded(item: VoicedSentence, seed: int, condition: str) -> VoicedSentence:
    generator = torch.Generator().manual_seed(seed)
    waves = torch.from_numpy(_floats(item))[None]
    for step in CONDITIONS[condition]:
        if step == "room":
            waves = degrade.room(waves, torch.tensor([T60]), torch.tensor([DIRECT_DB]), generator)
        elif step == "telephone":
            waves = degrade.band(waves, *(torch.tensor([edge]) for edge in degrade.TELEPHONE))
        else:
            noise = degrade.coloured(waves, torch.zeros(1), generator)
            waves = degrade.add(waves, noise, torch.tensor([SNR_DB]))
    loudest = waves.abs().max()
    return replace(item, audio=(waves[0] / loudest * 16_000).numpy().astype(np.int16))


def _aligners(items: list[VoicedSentence]) -> dict[str, Align]:
    tiny = str(ROOT / "assets" / "tiny-ctc")
    letter_head = str(ROOT / "assets" / "whisper-tiny-letters")
    whisper = str(ROOT / "models" / "whisper-tiny.en")
    specs: dict[str, CtcSpec | SoundSwallowerSpec | WhisperXAlignSpec] = {
        OURS: CtcSpec(format="whisper", model=letter_head, encoder=whisper, min_score=0.0),
        GMM: SoundSwallowerSpec(),
        TINY: CtcSpec(model=tiny, min_score=0.0),
        WHISPERX: WhisperXAlignSpec(model=tiny, min_score=0.0),
    }
    aligners: dict[str, Align] = {}
    for name, spec in specs.items():
        try:
            aligner = make_aligner(spec)
            aligner.open()
        except (ConfigError, ImportError) as error:
            if name == OURS:
                raise SystemExit(str(error)) from error
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        aligners[name] = partial(_align, aligner)
    table = letters.fit(letters.pronunciations(items))
    alphabet = Alphabet(labels=letters.VOCABULARY, blank=letters.BLANK, delimiter=letters.DELIMITER)

    def oracle(item: VoicedSentence, tokens: Sequence[Token]) -> Sequence[WordTiming | None]:
        emissions = np.log(np.maximum(letters.frame_targets(item, table), 1e-5))
        return align_emissions(emissions, alphabet, FRAME, _floats(item), tokens, letters_fill_sound=True).timings

    return {**aligners, ORACLE: oracle}


def _align(aligner: WordAligner, item: VoicedSentence, tokens: Sequence[Token]) -> Sequence[WordTiming | None]:
    return aligner.align(_floats(item), tokens, "en").timings


def _floats(item: VoicedSentence) -> np.ndarray:
    return item.audio.astype(np.float32) / 32768


def _errors(align: Align, items: list[VoicedSentence]) -> np.ndarray:
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
