"""What care costs, in processor seconds of this process: aligning beside the small CTC that was the demo's aligner before the
letter head, and decoding with every byte accounted for beside soundfile alone. The rivals take turns in one process.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from benchmarks.harness import Measurement, fastest_of, main
from benchmarks.stress.belief import demo_stage, words_of
from pipeline.source.decode import decode_file
from pipeline.words import WordsStage
from recipes.tiny_models.corpus import real_clips
from schemas.audio import SAMPLE_RATE
from schemas.spec import CtcSpec

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 5
MOST_OF_ALIGNING = 1.5
MOST_OF_DECODING = 1.1
"""What a clock of this kind repeats to on a busy machine."""
DECODE_SECONDS = 120


def run() -> list[Measurement]:
    """Rows on aligning and on decoding."""
    torch.set_num_threads(1)
    return [*align_rows(), *decode_rows()]


def align_rows() -> list[Measurement]:
    """The words stage on the demo's readings, with their own texts."""
    clips = [clip for unseen in (True, False) for clip in real_clips(unseen=unseen) if clip.seconds < 30]
    minutes = sum(clip.seconds for clip in clips) / 60
    small = WordsStage(CtcSpec(model=str(ROOT / "assets" / "tiny-ctc")))
    small.open()

    def aligning(stage: WordsStage) -> Callable[[], object]:
        return lambda: [words_of(stage, clip, clip.words) for clip in clips]

    ours, rival = (seconds / minutes for seconds in _processor_seconds([aligning(demo_stage()), aligning(small)]))
    return [_row("aligning a minute of speech", ours, "tiny CTC", rival, MOST_OF_ALIGNING)]


def decode_rows() -> list[Measurement]:
    """Two minutes of speech as WAV and FLAC, at 16 kHz and at 44.1 kHz in stereo."""
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted((ROOT / "data" / "demo").glob("sense*.flac"))]
    line = np.resize(np.concatenate(clips), DECODE_SECONDS * SAMPLE_RATE)
    stereo = soxr.resample(line, SAMPLE_RATE, 44_100)
    rows = []
    for container in ("WAV", "FLAC"):
        for samples, rate in ((line, SAMPLE_RATE), (np.stack([stereo, 0.5 * stereo], axis=1), 44_100)):
            buffer = io.BytesIO()
            soundfile.write(buffer, samples, rate, format=container, subtype="PCM_16")
            content = buffer.getvalue()
            ours, rival = _processor_seconds([partial(decode_file, content, -1), partial(_alone, content)])
            name = f"decoding {DECODE_SECONDS // 60} minutes of {container}, {rate / 1000:g} kHz"
            rows.append(_row(name, ours, "soundfile and soxr alone", rival, MOST_OF_DECODING))
    return rows


def _processor_seconds(calls: list[Callable[[], object]]) -> list[float]:
    return fastest_of(calls, ROUNDS, time.process_time)


def _alone(content: bytes) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    mono: np.ndarray = samples.mean(axis=1)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    return mono


def _row(name: str, ours: float, rival: str, theirs: float, most: float) -> Measurement:
    ratio = ours / theirs
    goal = f"<= {most:g} times the rival"
    return Measurement(
        name=f"{name} ({ratio:.2f} times)",
        value=ours,
        unit="CPU s",
        rival=rival,
        rival_value=theirs,
        goal=goal,
        holds=ratio <= most,
    )


if __name__ == "__main__":
    main(run, __doc__)
