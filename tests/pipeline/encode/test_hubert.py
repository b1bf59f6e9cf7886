"""HuBERT features: exact frames for every length, windows that join without a seam, layers counted as fairseq counts."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import HubertConfig, HubertModel

from pipeline.encode.base import build_encoder
from pipeline.encode.hubert import HubertEncoder
from pipeline.networks.windows import ConvGrid, plan_windows
from schemas.config import ConfigError
from schemas.errors import ModelError
from schemas.spec import HubertSpec

KERNELS, STRIDES = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]
GENERATOR = np.random.default_rng(0)
AUDIO = (GENERATOR.standard_normal(64_000) * 0.1).astype(np.float32)


def save_hubert(folder, norm="group", extra=0, seed=0):
    """A small random HuBERT: the usual convolutions (one more, kernel 2 stride 2, per `extra`), 3 layers of 32."""
    torch.manual_seed(seed)
    layers = len(KERNELS) + extra
    config = HubertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, conv_dim=[16] * layers,
        conv_kernel=KERNELS + [2] * extra, conv_stride=STRIDES + [2] * extra, num_feat_extract_layers=layers,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm=norm,
        conv_bias=norm == "layer", do_stable_layer_norm=norm == "layer",
    )  # fmt: skip
    HubertModel(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("hubert")
    return {
        (norm, extra): str(save_hubert(root / f"{norm}{extra}", norm, extra))
        for norm in ("group", "layer")
        for extra in (0, 1)
    }


@pytest.fixture(scope="module")
def encoders(models):
    opened = {}
    for key, path in models.items():
        spec = HubertSpec(
            model=path, layer=2, hop=640 if key[1] else 320, window_seconds=1, context_seconds=0.5, device="cpu"
        )
        opened[key] = build_encoder(spec)
        opened[key].open()
    return opened


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("extra", [0, 1])
@settings(max_examples=40, deadline=None)
@given(length=st.integers(0, 64_000))
def test_every_length_gives_exactly_length_over_hop_frames(encoders, norm, extra, length):
    encoder = encoders[norm, extra]
    features = encoder.encode(AUDIO[:length])
    assert features.shape == (length // encoder.hop, 32)
    assert np.isfinite(features).all()


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_layer_is_what_transformers_calls_hidden_states(models, norm, layer):
    """On audio padded by 40 samples a side, as slamkit does; the last layer of a large model without its extra norm."""
    spec = HubertSpec(model=models[norm, 0], layer=layer, device="cpu")
    encoder = build_encoder(spec)
    encoder.open()
    audio = AUDIO[:20_123]
    reference = HubertModel.from_pretrained(models[norm, 0]).eval()
    if norm == "layer":
        reference.encoder.layer_norm = torch.nn.Identity()
        audio_in = (audio - audio.mean()) / np.sqrt(audio.var() + 1e-5)
    else:
        audio_in = audio
    with torch.inference_mode():
        states = reference(torch.from_numpy(np.pad(audio_in, 40))[None].float(), output_hidden_states=True)
    expected = (states.hidden_states[layer] if layer < 3 else states.last_hidden_state)[0].numpy()
    np.testing.assert_allclose(encoder.encode(audio), expected, atol=2e-5)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("extra", [0, 1])
def test_windows_see_the_convolution_features_of_the_whole(models, norm, extra):
    """At layer 0 only the positional convolution looks around (8 frames): windows must equal the whole up to rounding.

    This is where a group norm over each window alone, or a grid that drifts, would show.
    """
    quiet_then_loud = AUDIO * np.linspace(0.05, 2.0, len(AUDIO), dtype=np.float32)
    hop = 640 if extra else 320
    whole = HubertEncoder(HubertSpec(model=models[norm, extra], layer=0, hop=hop, device="cpu"))
    parts = HubertEncoder(
        HubertSpec(model=models[norm, extra], layer=0, hop=hop, window_seconds=0.5, context_seconds=0.4, device="cpu")
    )
    whole.open()
    parts.open()
    np.testing.assert_allclose(parts.encode(quiet_then_loud), whole.encode(quiet_then_loud), atol=2e-4)


def test_more_context_brings_windows_closer_to_the_whole(models):
    def differ(context):
        spec = HubertSpec(model=models["group", 0], layer=3, window_seconds=0.5, context_seconds=context, device="cpu")
        encoder = build_encoder(spec)
        encoder.open()
        return encoder.encode(AUDIO)

    whole = differ(10)
    errors = [np.abs(differ(context) - whole).mean() for context in (0, 0.25, 1)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < errors[0] / 3


@pytest.fixture(scope="module")
def near_sighted(models, tmp_path_factory):
    """A directory whose model attends to 10 frames (0.2 s) on each side in each of its 3 layers."""
    folder = tmp_path_factory.mktemp("reach") / "model"
    shutil.copytree(models["layer", 0], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_reach": 10}))
    return str(folder)


def test_where_attention_ends_windows_with_that_much_context_equal_the_whole(near_sighted):
    """3 layers of 10 frames and 8 of the positions are 0.76 s: with 0.8 s of context a window sees all that its frames see."""

    def encode(window, context):
        spec = HubertSpec(model=near_sighted, layer=3, window_seconds=window, context_seconds=context, device="cpu")
        encoder = build_encoder(spec)
        encoder.open()
        return encoder.encode(AUDIO)

    whole = encode(10, 0)
    np.testing.assert_allclose(encode(0.5, 0.8), whole, atol=2e-4)
    assert np.abs(encode(0.5, 0.1) - whole).max() > 0.01, "with less context they do not"


def test_where_attention_ends_no_padding_is_attended_to(near_sighted):
    """Clips of a batch keep their own features to their last frame, also beside one that is longer by more than the reach."""
    encoder = build_encoder(HubertSpec(model=near_sighted, layer=3, device="cpu"))
    encoder.open()
    clips = [AUDIO[:40_000], AUDIO[:9_600], AUDIO[5_000:35_000]]
    for clip, features in zip(clips, encoder.encode_batch(clips), strict=True):
        np.testing.assert_allclose(features, encoder.encode(clip), atol=3e-4)


def test_a_reach_that_is_no_number_of_frames_is_a_sentence(near_sighted, tmp_path):
    shutil.copytree(near_sighted, tmp_path / "bad")
    config = json.loads((tmp_path / "bad" / "config.json").read_text())
    (tmp_path / "bad" / "config.json").write_text(json.dumps({**config, "attention_reach": "far"}))
    with pytest.raises(ConfigError, match="attention_reach must be a number of frames"):
        build_encoder(HubertSpec(model=str(tmp_path / "bad"), layer=3, device="cpu")).open()


def test_features_depend_on_the_audio_alone(encoders):
    """The same audio gives the same bits, whatever was encoded in between."""
    encoder = encoders["group", 0]
    first = encoder.encode(AUDIO[:30_000])
    encoder.encode(AUDIO[30_000:])
    np.testing.assert_array_equal(encoder.encode(AUDIO[:30_000].copy()), first)


@settings(max_examples=200, deadline=None)
@given(frames=st.integers(0, 3_000), core=st.integers(1, 400), context=st.integers(0, 200))
def test_kept_parts_tile_the_frames_and_windows_are_equally_long(frames, core, context):
    windows = plan_windows(frames, core, context)
    assert [frame for window in windows for frame in range(window.keep_start, window.keep_stop)] == list(range(frames))
    assert len({window.stop - window.start for window in windows}) <= 1
    for window in windows:
        assert 0 <= window.start <= window.keep_start < window.keep_stop <= window.stop <= frames
        assert window.keep_start - window.start >= min(context, window.keep_start)
        assert window.stop - window.keep_stop >= min(context, frames - window.keep_stop)


def test_the_grid_is_that_of_the_convolutions():
    assert ConvGrid.of(KERNELS, STRIDES) == ConvGrid(hop=320, field=400)
    assert ConvGrid.of([*KERNELS, 2], [*STRIDES, 2]) == ConvGrid(hop=640, field=720)
    assert ConvGrid.of(KERNELS, STRIDES).margin == (40, 40)
    with pytest.raises(ValueError, match="never seen"):
        ConvGrid.of([2], [4])


def test_a_wrong_hop_a_missing_layer_and_another_model_are_sentences(models, tmp_path):
    with pytest.raises(ConfigError, match=r"a frame every 640 samples, but the spec says hop: 320"):
        build_encoder(HubertSpec(model=models["group", 1], layer=2)).card()
    with pytest.raises(ConfigError, match="has 3 layers"):
        build_encoder(HubertSpec(model=models["group", 0], layer=4)).card()
    with pytest.raises(ModelError, match=r"no directory.*cache.*jobs\.fetch_models"):
        build_encoder(HubertSpec(model=str(tmp_path / "none"), layer=1)).card()
    other = tmp_path / "other"
    shutil.copytree(models["group", 0], other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "wavlm"}))
    with pytest.raises(ConfigError, match="type 'wavlm'"):
        build_encoder(HubertSpec(model=str(other), layer=1)).card()
    (other / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        build_encoder(HubertSpec(model=str(other), layer=1)).open()


def test_the_card_changes_with_what_changes_the_features_and_not_with_the_path(models, tmp_path):
    base = HubertSpec(model=models["group", 0], layer=2)
    shutil.copytree(models["group", 0], tmp_path / "moved")
    card = build_encoder(base).card()
    assert (
        build_encoder(base.with_updates(model=str(tmp_path / "moved"), batch_size=9, device="cpu")).card().facts
        == card.facts
    )
    for change in ({"layer": 1}, {"window_seconds": 3.0}, {"context_seconds": 1.0}, {"model": models["layer", 0]}):
        assert build_encoder(base.with_updates(**change)).card().card_id != card.card_id


def test_half_precision_weights_load_in_float32(models, tmp_path):
    HubertModel.from_pretrained(models["group", 0]).half().save_pretrained(tmp_path)
    encoder = build_encoder(HubertSpec(model=str(tmp_path), layer=2, device="cpu"))
    encoder.open()
    full = build_encoder(HubertSpec(model=models["group", 0], layer=2, device="cpu"))
    full.open()
    np.testing.assert_allclose(encoder.encode(AUDIO[:8_000]), full.encode(AUDIO[:8_000]), atol=0.05)


@pytest.mark.parametrize("mode", ["group_norm", "layer_norm"])
def test_a_torchaudio_bundle_gives_torchaudios_features(mode, monkeypatch, tmp_path):
    """A bundle with its weights in torch's cache, as torchaudio puts them there, against torchaudio's own layers."""
    import torchaudio
    from torchaudio.pipelines import HUBERT_BASE
    from torchaudio.pipelines._wav2vec2.impl import Wav2Vec2Bundle

    params = {
        **HUBERT_BASE._params, "extractor_mode": mode, "encoder_embed_dim": 32, "encoder_num_layers": 3, "encoder_num_heads": 4,
        "encoder_ff_interm_features": 64, "encoder_pos_conv_kernel": 16, "encoder_pos_conv_groups": 4,
        "extractor_conv_layer_config": [(16, kernel, stride) for kernel, stride in zip(KERNELS, STRIDES, strict=True)],
        "extractor_conv_bias": mode == "layer_norm", "encoder_layer_norm_first": mode == "layer_norm",
    }  # fmt: skip
    torch.manual_seed(1)
    original = torchaudio.models.wav2vec2_model(**params).eval()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(original.state_dict(), checkpoints / "hubert_tiny.pth")
    bundle = Wav2Vec2Bundle("hubert_tiny.pth", params, 16_000, mode == "layer_norm", "Wav2Vec2")
    monkeypatch.setattr(torchaudio.pipelines, "HUBERT_TINY", bundle, raising=False)
    for layer in (1, 3):
        encoder = build_encoder(HubertSpec(format="torchaudio", model="HUBERT_TINY", layer=layer, device="cpu"))
        encoder.open()
        audio = AUDIO[:16_000]
        wave = torch.from_numpy(audio)
        wave = torch.nn.functional.layer_norm(wave, wave.shape) if mode == "layer_norm" else wave
        with torch.inference_mode():
            features, _ = original.extract_features(torch.nn.functional.pad(wave, (40, 40))[None], num_layers=layer)
        np.testing.assert_allclose(encoder.encode(audio), features[-1][0].numpy(), atol=2e-5)


def test_an_unknown_bundle_is_a_sentence():
    with pytest.raises(ConfigError, match="no bundle 'HUBERT_SMALL'"):
        build_encoder(HubertSpec(format="torchaudio", model="HUBERT_SMALL", layer=1)).card()


def test_real_speech_goes_through(encoders):
    audio, _ = soundfile.read(Path(__file__).parents[3] / "data/demo/jfk_inaugural_1961.flac", dtype="float32")
    features = encoders["layer", 0].encode(audio)
    assert len(features) == len(audio) // 320
    assert features.std() > 0


def test_a_bin_file_is_read_as_weights_alone(models, tmp_path):
    """Older hub models have a pickle for weights: it loads if it holds tensors, and runs nothing if it holds more."""
    plain, bad, witness = tmp_path / "plain", tmp_path / "bad", tmp_path / "witness"
    weights = HubertModel.from_pretrained(models["group", 0]).state_dict()

    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(witness),)

    for folder, state in ((plain, weights), (bad, {**weights, "extra": Malicious()})):
        folder.mkdir()
        shutil.copy(Path(models["group", 0]) / "config.json", folder)
        torch.save(state, folder / "pytorch_model.bin")
    encoder = build_encoder(HubertSpec(model=str(plain), layer=2, device="cpu"))
    encoder.open()
    full = build_encoder(HubertSpec(model=models["group", 0], layer=2, device="cpu"))
    full.open()
    np.testing.assert_array_equal(encoder.encode(AUDIO[:8_000]), full.encode(AUDIO[:8_000]))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        build_encoder(HubertSpec(model=str(bad), layer=2)).open()
    assert not witness.exists()


@pytest.mark.parametrize("key", [("group", 0), ("group", 1), ("layer", 0), ("layer", 1)])
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(0, 40_000), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_a_padded_batch_gives_the_features_of_its_members(encoders, key, lengths, seed):
    """Of clips of any lengths, loud and quiet ones, some longer than a window, some shorter than a frame."""
    generator = np.random.default_rng(seed)
    clips = [(generator.standard_normal(length) * generator.uniform(0.001, 1)).astype(np.float32) for length in lengths]
    together = encoders[key].encode_batch(clips)
    for clip, features in zip(clips, together, strict=True):
        alone = encoders[key].encode(clip)
        assert features.shape == alone.shape
        np.testing.assert_allclose(features, alone, atol=3e-4)


def test_padding_would_be_seen_without_mask_or_statistics(encoders):
    """The test above can fail: the same padding, with neither, moves the features of the shorter clip."""
    encoder = encoders["group", 0]
    padded = encoder.encode(np.concatenate([AUDIO[:9_600], np.zeros(12_800, np.float32)]))[: 9_600 // 320]
    assert np.abs(padded - encoder.encode(AUDIO[:9_600])).max() > 1e-2


def test_half_precision_is_close_and_its_frames_are_as_many(models, encoders):
    spec = HubertSpec(model=models["group", 0], layer=2, window_seconds=1, context_seconds=0.5, device="cpu")
    halved = build_encoder(spec.with_updates(dtype="bfloat16"))
    halved.open()
    whole = encoders["group", 0]
    assert halved.card() == whole.card(), "a codebook fitted in one arithmetic serves the others"
    for alone, together in ((whole.encode(AUDIO), halved.encode(AUDIO)), (whole.encode(AUDIO[:9_600]), None)):
        other = halved.encode_batch([AUDIO[:9_600], AUDIO[:5_000]])[0] if together is None else together
        assert other.shape == alone.shape
        assert other.dtype == np.float32
        assert 0 < np.abs(other - alone).max() < 0.15
