"""From units to sound: what every way of doing it has in common, and where its speech comes from."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from model.data.shards import Sample, ShardSet
from schemas.audio import SAMPLE_RATE
from schemas.config import ConfigError
from schemas.shards import channel_in, on_the_grid


class Synthesiser(Protocol):
    """Units to a waveform."""

    hop: int
    """Samples per unit."""
    sample_rate: int

    def __call__(self, units: np.ndarray) -> np.ndarray:
        """float32 [len(units) * hop]."""
        ...


@dataclass(frozen=True, kw_only=True)
class SpokenSample:
    """A sample of the shards with its sound."""

    sample: Sample
    audio: np.ndarray
    """float32 [num_frames * hop] at 16 kHz."""


def spoken_samples(shards: ShardSet, audio_root: str | None, voice: str = "") -> Iterator[SpokenSample]:
    """Every sample whose key or path contains `voice`, with its audio: from the shards, or else from the recordings, whose paths
    are relative to `audio_root`.

    Raises:
        ConfigError: the shards carry no audio and no root is given, or a recording is missing.
        ShardError: the shards cannot be read.
    """
    for shard, count in enumerate(shards.counts):
        for number in range(count):
            sample = shards.read(shard, number)
            if not len(sample.units) or (voice not in sample.meta.uri and voice not in sample.meta.key):
                continue
            audio = shards.audio(shard, number)
            if audio is None:
                audio = _from_recording(sample, audio_root, shards.index_url)
            yield SpokenSample(sample=sample, audio=audio)


def first_hours(samples: Iterable[SpokenSample], hours: float) -> tuple[list[SpokenSample], bool]:
    """The first of the samples, together at most so long, but one at least; and whether these are all. No more is read."""
    kept: list[SpokenSample] = []
    left = hours * 3600 * SAMPLE_RATE
    for spoken in samples:
        left -= len(spoken.audio)
        if left < 0 and kept:
            return kept, False
        kept.append(spoken)
    return kept, True


def _from_recording(sample: Sample, root: str | None, index: str) -> np.ndarray:
    import soundfile
    import soxr

    if root is None:
        raise ConfigError(
            f"{index} carries no audio: write the shards with `shards: {{audio: true}}`, or give the folder of the "
            "recordings (--audio-root; in a training run evaluation.voice.audio_root), to which the shards' paths are "
            "relative"
        )
    folder = Path(root).resolve()
    path = (folder / sample.meta.uri).resolve()
    if not path.is_relative_to(folder):
        raise ConfigError(f"the recording {sample.meta.uri!r} leads out of {root}")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise ConfigError(f"cannot read the recording {path}: {error}; is --audio-root right?") from error
    channel = channel_in(sample.meta.segments[0].segment_id, sample.meta.recording_id)
    if channel is not None and channel >= samples.shape[1]:
        raise ConfigError(f"the recording {path} has no channel {channel + 1}, of which sample {sample.meta.key} is")
    mono = soxr.resample(samples.mean(axis=1) if channel is None else samples[:, channel], rate, 16_000)
    pieces = [mono[span.start : span.end] for span in sample.meta.segments]
    audio = on_the_grid(sample.meta, np.concatenate(pieces))
    wanted = sample.meta.num_frames * sample.meta.hop
    if not wanted - sample.meta.hop <= len(audio) <= wanted:
        raise ConfigError(f"the recording {path} has not the length that sample {sample.meta.key} says")
    return np.pad(audio, (0, wanted - len(audio))).astype(np.float32)


def at_16k(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """A waveform at 16 kHz, float32: what boards, pages and recordings have. A vocoder may speak at another rate."""
    import soxr

    resampled: np.ndarray = samples if sample_rate == SAMPLE_RATE else soxr.resample(samples, sample_rate, SAMPLE_RATE)
    return resampled.astype(np.float32)


def sound_format(path: str | Path) -> str:
    """The format that a file's suffix names.

    Raises:
        ConfigError: sound is not written under that suffix.
    """
    import soundfile

    suffix = Path(path).suffix
    if suffix[1:].upper() not in soundfile.available_formats():
        raise ConfigError(f"{path}: sound is not written as {suffix or 'a file without a suffix'}", "name it .wav")
    return suffix[1:].upper()


def write_wav(path: str | Path, samples: np.ndarray, sample_rate: int) -> None:
    """16-bit PCM, or what the suffix says.

    Raises:
        ConfigError: see `sound_format`.
        OSError: the file cannot be written.
    """
    import soundfile

    form = sound_format(path)
    subtype = "PCM_16" if soundfile.check_format(form, "PCM_16") else None
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    held = io.BytesIO()  # libsndfile does not say what went wrong with a file
    soundfile.write(held, np.clip(samples, -1.0, 1.0), sample_rate, format=form, subtype=subtype)
    try:
        Path(path).write_bytes(held.getvalue())
    except OSError as error:  # a full disk has no file's name in it
        raise OSError(error.errno, error.strerror, str(path)) from error
