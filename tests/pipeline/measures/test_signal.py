"""Measures of sound against a truth that was put into it: known clipping, known band limit, known noise, known music."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.measures.signal import bandwidth, clipping, music, signal_to_noise
from schemas.audio import SAMPLE_RATE

DEMO = Path(__file__).resolve().parents[3] / "data" / "demo"
NAMES = ("sense_and_sensibility_0870", "sense_and_sensibility_0880", "sense_and_sensibility_0890")


@pytest.fixture(scope="module", params=NAMES)
def speech(request: pytest.FixtureRequest) -> np.ndarray:
    """A sentence or two, read well: 16 kHz."""
    samples: np.ndarray = soundfile.read(DEMO / f"{request.param}.flac", dtype="float32")[0]
    return samples


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_clipping_is_the_share_that_was_cut(speech: np.ndarray, share: float) -> None:
    limit = np.quantile(np.abs(speech), 1 - share)
    assert clipping(np.clip(speech, -limit, limit)) == pytest.approx(share, rel=0.15)


def test_speech_is_not_clipped_and_silence_neither(speech: np.ndarray) -> None:
    assert clipping(speech) < 2e-4
    assert clipping(0.1 * speech) < 2e-4
    assert clipping(np.zeros(1000, np.float32)) == 0.0
    assert clipping(np.zeros(0, np.float32)) == 0.0


@pytest.mark.parametrize("frequency", [100, 200, 440, 1000])
def test_a_tone_is_not_clipped(frequency: int) -> None:
    """Whatever its phase: tops of a tone are round, though flatter than those of speech."""
    turns = frequency * np.arange(SAMPLE_RATE) / SAMPLE_RATE
    found = [clipping(np.sin(2 * np.pi * turns + phase).astype(np.float32)) for phase in np.linspace(0.01, 3, 12)]
    assert np.mean(found) < 0.005


@pytest.mark.parametrize("limit", [1000, 2000, 3400, 4000, 6000])
def test_bandwidth_is_where_the_sound_was_cut_off(speech: np.ndarray, limit: int) -> None:
    spectrum = np.fft.rfft(speech)
    spectrum[np.fft.rfftfreq(len(speech), 1 / SAMPLE_RATE) > limit] = 0
    cut = np.fft.irfft(spectrum, len(speech)).astype(np.float32)
    assert bandwidth(cut) == pytest.approx(limit, abs=0.06 * limit + 100)
    assert bandwidth(0.01 * cut) == bandwidth(cut), "loudness plays no part"
    assert bandwidth(speech) > 6500


def noise(kind: str, count: int) -> np.ndarray:
    """White, or pink from 60 Hz on: mean power 1."""
    samples = np.random.default_rng(0).normal(size=count)
    if kind == "pink":
        spectrum, frequency = np.fft.rfft(samples), np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
        spectrum = np.where(frequency >= 60, spectrum / np.sqrt(np.maximum(frequency, 1)), 0)
        samples = np.fft.irfft(spectrum, count)
    scaled: np.ndarray = samples / np.sqrt(np.square(samples).mean())
    return scaled


@pytest.mark.parametrize("kind", ["white", "pink"])
@pytest.mark.parametrize("wanted", [0, 5, 10, 15, 20])
def test_signal_to_noise_is_what_was_mixed(speech: np.ndarray, kind: str, wanted: int) -> None:
    """The demo's own noise lies some 25 dB below its speech, so nothing beyond 20 can be put into it."""
    power = np.square(speech).mean() / 10 ** (wanted / 10)
    mixed = (speech + np.sqrt(power) * noise(kind, len(speech))).astype(np.float32)
    assert signal_to_noise(mixed) == pytest.approx(wanted, abs=2.0)


def test_clean_speech_is_at_least_twenty_and_silence_is_no_error(speech: np.ndarray) -> None:
    assert 20 < signal_to_noise(speech) <= 60
    assert signal_to_noise(np.zeros(8000, np.float32)) == 0.0
    assert signal_to_noise(speech[:100]) >= 0.0


def chords(seconds: float) -> np.ndarray:
    """Three notes of four partials each, struck anew every 0.8 s."""
    dice, length = np.random.default_rng(1), int(0.8 * SAMPLE_RATE)
    time = np.arange(length) / SAMPLE_RATE
    struck = []
    while sum(map(len, struck)) < seconds * SAMPLE_RATE:
        notes = dice.choice([220, 247, 262, 294, 330, 349, 392, 440], 3, replace=False)
        tones = [np.sin(2 * np.pi * note * part * time) / part for note in notes for part in (1, 2, 3, 4)]
        struck.append(np.sum(tones, axis=0) * np.exp(-time))
    samples: np.ndarray = np.concatenate(struck)[: int(seconds * SAMPLE_RATE)].astype(np.float32)
    return 0.1 * samples / np.abs(samples).max()


def test_music_is_the_share_that_was_music(speech: np.ndarray) -> None:
    seconds = len(speech) / SAMPLE_RATE
    assert music(speech) == 0.0
    assert music(chords(8)) == 1.0
    both = np.concatenate([chords(seconds), speech])
    assert music(both) == pytest.approx(0.5, abs=1.6 / seconds)
    assert music(noise("white", 80_000).astype(np.float32)) == 0.0


def test_music_under_speech_is_found(speech: np.ndarray) -> None:
    under = chords(len(speech) / SAMPLE_RATE)
    under *= np.sqrt(np.square(speech).mean() / np.square(under).mean())
    assert music(speech + under) > 0.4, "three seconds are two blocks, of which one may be missed"


def test_short_and_silent_segments_have_measures() -> None:
    for samples in (np.zeros(0, np.float32), np.zeros(100, np.float32), np.zeros(20_000, np.float32)):
        assert (clipping(samples), bandwidth(samples), music(samples)) == (0.0, 0.0, 0.0)
