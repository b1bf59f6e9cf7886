"""Whether one can hear what units say: Whisper tiny.en on resynthesised speech, beside the same on the recordings.

Units of recordings that the voice has never seen are spoken by joined pieces of the other recordings, and by mean spectra with
Griffin and Lim's phases (the rival). Units of recordings that it has, which is what a model trained on them mostly says, come
back as they were. The shards are those of the demo's stories (three synthetic voices, four minutes) where they exist, else the
demo's. Set LST_SPEECH to INDEX or INDEX,AUDIO_ROOT,VOICE for others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness import Measurement, main
from model.data.shards import ShardSet
from model.voice.mean_spectrum import MeanSpectrum
from model.voice.recognition import GreedyWhisper, error_rates
from model.voice.synthesiser import SpokenSample, spoken_samples
from model.voice.unit_selection import UnitSelection
from schemas.config import ConfigError

MODEL = "models/whisper-tiny.en"
PLACES = (
    ("runs/stories-demo/pipeline/shards/index.json", "runs/stories-demo/speech", ""),
    ("runs/demo/shards/index.json", None, ""),
)
TESTED = 8
"""Recordings, spread over the shards."""


def place() -> tuple[str, str | None, str]:
    """Index, folder of the recordings, voice.

    Raises:
        ConfigError: there are no shards.
    """
    if given := os.environ.get("LST_SPEECH"):
        index, root, voice = (*given.split(","), "", "")[:3]
        return index, root or None, voice
    for index, folder, voice in PLACES:
        if Path(index).is_file():
            return index, folder, voice
    raise ConfigError("no shards to speak with: run `make demo` or `make study-demo` first")


def run() -> list[Measurement]:
    """Error rates of the recordings, and of what is made of their units."""
    index, root, voice = place()
    shards = ShardSet(index)
    spoken = list(spoken_samples(shards, root, voice))
    tested = spoken[:: max(1, len(spoken) // TESTED)][:TESTED]
    names = {item.sample.meta.recording_id for item in tested}
    others = [item for item in spoken if item.sample.meta.recording_id not in names]
    recognise = GreedyWhisper(MODEL)
    hop, size = shards.index.hop, shards.index.num_units

    def error(waves: Sequence[np.ndarray]) -> float:
        heard = [recognise(wave, 16_000) for wave in waves]
        return error_rates([item.sample.meta.text for item in tested], heard).wer

    def speak(voice: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
        return [voice(item.sample.units) for item in tested]

    original = error([item.audio for item in tested])
    joined = UnitSelection(_pairs(others), hop, size)
    begun = time.perf_counter()
    waves = speak(joined)
    seconds = time.perf_counter() - begun
    unseen, rival = error(waves), error(speak(MeanSpectrum(_pairs(others), hop, size)))
    known = error(speak(UnitSelection(_pairs(spoken), hop, size)))
    minutes = sum(len(item.audio) for item in others) / 16_000 / 60
    audio = sum(map(len, waves)) / 16_000
    return [
        Measurement(
            name="WER, recordings in the inventory", value=known, unit="%", rival="the recordings", rival_value=original,
            goal="<= recordings + 5", holds=known <= original + 5,
        ),
        Measurement(
            name=f"WER, others, from {minutes:.0f} min and {size} units", value=unseen, unit="%", rival="mean spectra",
            rival_value=rival, goal="< rival", holds=unseen < rival,
        ),
        Measurement(name="speed of joining", value=audio / seconds, unit="s of speech per s"),
    ]  # fmt: skip


def _pairs(spoken: Sequence[SpokenSample]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(item.sample.units, item.audio) for item in spoken]


if __name__ == "__main__":
    main(run, __doc__)
