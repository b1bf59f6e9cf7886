"""MFCC features: exact frames, and the same numbers whatever the blocks."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.encode import mfcc
from pipeline.encode.base import build_encoder
from schemas.spec import MfccSpec

DEMO = Path(__file__).parents[3] / "data" / "demo"
NOISE = np.random.default_rng(0).standard_normal(20_000).astype(np.float32) * 0.1


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, 20_000), hop=st.sampled_from([320, 640]))
def test_every_length_gives_exactly_length_over_hop_frames(length, hop):
    features = build_encoder(MfccSpec(hop=hop)).encode(NOISE[:length])
    assert features.shape == (length // hop, 39)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_blocks_change_nothing(monkeypatch):
    encoder = mfcc.MfccEncoder(MfccSpec(hop=320))
    whole = encoder.encode(NOISE)
    monkeypatch.setattr(mfcc, "BLOCK_FRAMES", 7)
    np.testing.assert_allclose(encoder.encode(NOISE), whole, atol=2e-3)


def test_a_frame_is_the_mean_of_kaldi_frames_with_deltas():
    """Away from the ends, features are those of torchaudio's Kaldi MFCC and deltas, averaged over the hop."""
    from torchaudio.compliance import kaldi
    from torchaudio.functional import compute_deltas

    statics = kaldi.mfcc(torch.from_numpy(NOISE[40:])[None], sample_frequency=16_000, use_energy=False).T
    deltas = compute_deltas(statics)
    # Kaldi's first frame covers samples 40..440 and so is centred on 240: frame 1 of ours.
    reference = torch.cat([statics, deltas, compute_deltas(deltas)]).T.numpy()
    ours = mfcc.MfccEncoder(MfccSpec(hop=640)).encode(NOISE)
    for frame in (4, 10, 20):
        np.testing.assert_allclose(ours[frame], reference[4 * frame - 1 : 4 * frame + 3].mean(axis=0), atol=2e-3)


def test_digital_silence_is_finite():
    assert np.isfinite(mfcc.MfccEncoder(MfccSpec()).encode(np.zeros(16_000, np.float32))).all()


@pytest.mark.parametrize("hop", [320, 640])
def test_the_card_says_the_hop(hop):
    assert build_encoder(MfccSpec(hop=hop)).card().facts["hop"] == hop
    assert MfccSpec(hop=320) != MfccSpec(hop=640)


def test_real_speech_gives_varied_features_and_the_same_ones_again():
    audio, rate = soundfile.read(DEMO / "sense_and_sensibility_0880.flac", dtype="float32")
    assert rate == 16_000
    encoder = mfcc.MfccEncoder(MfccSpec())
    first, again = encoder.encode(audio), encoder.encode(audio.copy())
    np.testing.assert_array_equal(first, again)
    assert first.std(axis=0).min() > 0.01
