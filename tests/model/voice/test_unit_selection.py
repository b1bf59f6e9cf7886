"""Units become sound of exactly their length; joined recordings follow the units, and a recording's own units give it back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.voice import unit_selection as resynthesis
from model.voice.mean_spectrum import MeanSpectrum
from model.voice.unit_selection import CONTEXT, UnitSelection
from schemas.config import ConfigError

HOP, NUM_UNITS = 640, 12


def recordings(
    seed: int, lengths: tuple[int, ...] = (30, 17), num_units: int = NUM_UNITS
) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    found = []
    for length in lengths:
        units = rng.integers(0, num_units - 2, length).astype(np.uint16)  # the last two are never recorded
        tone = np.repeat(units.astype(np.float32), HOP) * 0.01 + 0.02
        audio = 0.3 * np.sin(np.cumsum(2 * np.pi * tone)) + 0.01 * rng.standard_normal(length * HOP)
        found.append((units, audio.astype(np.float32)))
    return found


VOICES = [UnitSelection(recordings(0), HOP, NUM_UNITS), MeanSpectrum(recordings(0), HOP, NUM_UNITS)]


@pytest.mark.parametrize("voice", VOICES, ids=["selection", "mean spectrum"])
def test_the_waveform_has_exactly_a_hop_per_unit(voice: UnitSelection | MeanSpectrum) -> None:
    rng = np.random.default_rng(1)
    for length in (0, 1, 2, 5, 41):
        wave = voice(rng.integers(0, NUM_UNITS, length))
        assert wave.shape == (length * HOP,)
        assert wave.dtype == np.float32
        assert np.isfinite(wave).all()


def test_a_recording_comes_back_from_its_units_sample_by_sample() -> None:
    for units, audio in recordings(0):
        np.testing.assert_allclose(VOICES[0](units), audio, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, NUM_UNITS - 3), min_size=1, max_size=30))
def test_every_frame_has_the_wanted_unit(units: list[int]) -> None:
    voice = VOICES[0]
    assert isinstance(voice, UnitSelection)
    assert voice.units_F[voice.select(np.asarray(units))].tolist() == units


@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_the_cheapest_sequence(seed: int) -> None:
    """Against all sequences of candidates, costed from the definition."""
    voice = UnitSelection(recordings(seed, (12, 9), 5), HOP, 5)
    wanted = np.random.default_rng(seed).integers(0, 3, 4)
    padded = np.pad(wanted, CONTEXT, constant_values=5)

    def cost(path: tuple[int, ...]) -> float:
        total = 0.0
        for at, frame in enumerate(path):
            for offset in range(-CONTEXT, CONTEXT + 1):
                if offset and voice.units_F[frame + offset] != padded[at + CONTEXT + offset]:
                    total += resynthesis.MISMATCH / abs(offset) / 2
            if at and path[at - 1] + 1 != frame:
                apart = voice.edge_FM[path[at - 1] + 1] - voice.edge_FM[frame]
                total += resynthesis.JUMP + float(np.sqrt(np.mean(apart**2)))
        return total

    frames = [np.flatnonzero(voice.units_F == unit).tolist() for unit in wanted]
    best = min(cost(path) for path in itertools.product(*frames))
    assert cost(tuple(voice.select(wanted).tolist())) == pytest.approx(best, abs=1e-5)


def test_joins_do_not_click() -> None:
    """Steady tones of one pitch in different phases are joined without a step larger than the tone's own."""
    time = np.arange(40 * HOP, dtype=np.float32)
    tone = (0.5 * np.sin(2 * np.pi * 150 / 16_000 * time)).astype(np.float32)
    units = np.tile(np.arange(4), 10)
    voice = UnitSelection([(units, tone)], HOP, 4)
    wave = voice(np.asarray([0, 2, 1, 3, 0, 0, 3, 1, 2, 2, 0]))[HOP:-HOP]
    assert np.abs(np.diff(wave)).max() < 1.3 * np.abs(np.diff(tone)).max()
    assert np.abs(wave).max() > 0.45


def test_what_cannot_be_spoken_is_said() -> None:
    with pytest.raises(ConfigError, match="no recorded speech"):
        UnitSelection([], HOP, 4)
    with pytest.raises(ConfigError, match="recording 0 has not 640 samples"):
        UnitSelection([(np.zeros(3, dtype=np.uint16), np.zeros(10, dtype=np.float32))], HOP, 4)
    with pytest.raises(ConfigError, match="outside"):
        VOICES[0](np.asarray([NUM_UNITS]))


@pytest.mark.parametrize("hop", [642, 2_048])
def test_units_whose_length_has_no_mean_spectra_are_refused(hop: int) -> None:
    """Such as `lst import-units --hop 642` makes; the longer ones left gaps between the windows, which cannot be inverted."""
    with pytest.raises(ConfigError, match=rf"these have {hop}: speak with joined recordings"):
        MeanSpectrum([(np.zeros(3, dtype=np.uint16), np.zeros(3 * hop, dtype=np.float32))], hop, 4)
    assert (
        len(MeanSpectrum([(np.zeros(3, dtype=np.uint16), np.zeros(3_072, np.float32))], 1_024, 4)(np.zeros(9))) == 9_216
    )
