"""CTC models of directories and bundles: their emissions, in windows and batches, and the stage on real speech."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertConfig, HubertForCTC, Wav2Vec2Config, Wav2Vec2ForCTC

from pipeline.align.ctc import CtcAligner
from pipeline.align.ctc_model import CtcModel
from pipeline.text.tokens import tokenise
from pipeline.words import WordsStage
from schemas.config import ConfigError
from schemas.errors import ModelError
from schemas.spec import CtcSpec
from schemas.tables import Recording, Segment, Transcript, segment_id
from tests.pipeline.align.test_ctc import DEMO, HOP, LABELS


def save_ctc(folder, kind="wav2vec2", norm="group", delimiter=True, seed=0):
    """A small random letter CTC model as a Hugging Face directory."""
    torch.manual_seed(seed)
    make_config, make_model = (Wav2Vec2Config, Wav2Vec2ForCTC) if kind == "wav2vec2" else (HubertConfig, HubertForCTC)
    config = make_config(
        vocab_size=len(LABELS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        conv_dim=[16] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm=norm,
        conv_bias=norm == "layer", do_stable_layer_norm=norm == "layer", pad_token_id=0,
    )  # fmt: skip
    make_model(config).eval().save_pretrained(folder)
    labels = [label if delimiter or label != "|" else "¦" for label in LABELS]
    Path(folder, "vocab.json").write_text(json.dumps({label: index for index, label in enumerate(labels)}))
    Path(folder, "tokenizer_config.json").write_text(json.dumps({"word_delimiter_token": "|"}))
    Path(folder, "preprocessor_config.json").write_text(json.dumps({"do_normalize": norm == "layer"}))
    return str(folder)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_emissions_are_the_models_own_with_exact_frames(kind, norm, tmp_path):
    generator = np.random.default_rng(0)
    model = CtcModel(CtcSpec(model=save_ctc(tmp_path, kind, norm), device="cpu"))
    model.open()
    reference = (Wav2Vec2ForCTC if kind == "wav2vec2" else HubertForCTC).from_pretrained(tmp_path).eval()
    audio = (generator.standard_normal(20_000) * 0.1).astype(np.float32)
    for length in (0, 319, 320, 721, 19_999):
        wave = audio[:length]
        emissions = model.log_probs(wave)
        assert emissions.shape == (length // HOP, len(LABELS))
        if length >= HOP:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7) if norm == "layer" else wave
            with torch.inference_mode():
                logits = reference(torch.from_numpy(np.pad(wave, 40))[None].float()).logits
            np.testing.assert_allclose(emissions, torch.log_softmax(logits, -1)[0].numpy(), atol=1e-4)


def test_long_segments_go_through_windows(tmp_path):
    """Group norm takes its statistics from the whole segment, so windows differ from the whole by their attention alone."""
    generator = np.random.default_rng(0)
    path = save_ctc(tmp_path)
    audio = (generator.standard_normal(160_000) * np.linspace(0.01, 1, 160_000)).astype(np.float32)

    def emissions(window, context):
        model = CtcModel(CtcSpec(model=path, device="cpu", window_seconds=window, context_seconds=context))
        model.open()
        return model.log_probs(audio)

    whole, parts, bare = emissions(20, 5), emissions(2, 1.5), emissions(2, 0)
    assert parts.shape == whole.shape == (500, len(LABELS))
    assert np.abs(parts - whole).mean() < np.abs(bare - whole).mean()
    assert np.abs(parts - whole).mean() < 0.05


def batch_equals_members(model):
    """Clips of any lengths, loud and quiet ones, some longer than a window, some shorter than a frame."""
    generator = np.random.default_rng(0)
    lengths = [0, 319, 320, 4_000, 20_000, 9_999, 640_000]
    clips = [(generator.standard_normal(n) * generator.uniform(0.001, 1)).astype(np.float32) for n in lengths]
    for clip, together in zip(clips, model.log_probs_batch(clips), strict=True):
        np.testing.assert_allclose(together, model.log_probs(clip), atol=3e-4)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_a_padded_batch_gives_the_emissions_of_its_members(norm, tmp_path):
    model = CtcModel(CtcSpec(model=save_ctc(tmp_path, norm=norm), device="cpu"))
    model.open()
    batch_equals_members(model)


def test_half_precision_is_close_named_in_the_card_and_off_by_default(tmp_path):
    generator = np.random.default_rng(0)
    path = save_ctc(tmp_path)
    audio = (generator.standard_normal(20_000) * 0.1).astype(np.float32)
    emissions, cards = {}, {}
    for dtype in ("float32", "bfloat16"):
        aligner = CtcAligner(CtcSpec(model=path, device="cpu", dtype=dtype))
        cards[dtype] = aligner.card()
        aligner.open()
        emissions[dtype] = aligner.hear([audio])[0]
    assert CtcAligner(CtcSpec(model=path)).card() == cards["float32"] != cards["bfloat16"]
    assert "dtype" not in cards["float32"].facts
    difference = np.abs(emissions["float32"] - emissions["bfloat16"])
    assert 0 < difference.max() < 0.2


def test_a_torchaudio_bundle_gives_its_own_emissions(monkeypatch, tmp_path):
    generator = np.random.default_rng(0)
    import torchaudio
    from torchaudio.pipelines import WAV2VEC2_ASR_BASE_960H
    from torchaudio.pipelines._wav2vec2.impl import Wav2Vec2ASRBundle

    labels = tuple(LABELS[2:])
    params = {
        **WAV2VEC2_ASR_BASE_960H._params, "encoder_embed_dim": 32, "encoder_num_layers": 2, "encoder_num_heads": 4,
        "encoder_ff_interm_features": 64, "encoder_pos_conv_kernel": 16, "encoder_pos_conv_groups": 4,
        "extractor_conv_layer_config": [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2, "aux_num_out": len(labels) + 1,
    }  # fmt: skip
    original = torchaudio.models.wav2vec2_model(**params).eval()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(original.state_dict(), tmp_path / "hub" / "checkpoints" / "tiny_asr.pth")
    bundle = Wav2Vec2ASRBundle("tiny_asr.pth", params, 16_000, False, "Wav2Vec2", labels, ())
    monkeypatch.setattr(torchaudio.pipelines, "TINY_ASR", bundle, raising=False)
    model = CtcModel(CtcSpec(format="torchaudio", model="TINY_ASR", device="cpu"))
    model.open()
    audio = (generator.standard_normal(10_000) * 0.1).astype(np.float32)
    assert model.alphabet.labels[: len(labels) + 1] == tuple(bundle.get_labels())
    with torch.inference_mode():
        expected = torch.log_softmax(original(torch.from_numpy(np.pad(audio, 40))[None])[0], -1)[0].numpy()
    np.testing.assert_allclose(model.log_probs(audio), expected, atol=1e-4)
    batch_equals_members(model)
    with pytest.raises(ConfigError, match="no CTC bundle 'HUBERT_BASE'"):
        CtcAligner(CtcSpec(format="torchaudio", model="HUBERT_BASE")).card()


def test_a_gpu_gets_full_batches_across_recordings_and_the_table_does_not_show_it(monkeypatch, tmp_path):
    """As with 16 clips per step: the same words and rejects in the same order, more than 14 clips a step."""
    generator = np.random.default_rng(0)
    stage = WordsStage(CtcSpec(model=save_ctc(tmp_path), device="cpu", min_score=0, min_coverage=0, max_uncovered=1))
    stage.open()
    audio = {name: (generator.standard_normal(32_000) * 0.1).astype(np.float32) for name in "abcdefgh"}
    recordings = [
        Recording(
            recording_id=name, uri=name, source="x", bytes=1, sha256=name, codec="x", sample_rate=16_000, channels=1,
            num_samples=32_000, num_samples_16k=32_000,
        )
        for name in audio
    ]  # fmt: skip
    segments, transcripts = [], []
    for number in range(160):
        name, length = "abcdefgh"[number // 20], int(generator.integers(3_000, 32_000))
        key = segment_id(name, 0, length) + f"-{number}"
        segments.append(
            Segment(segment_id=key, recording_id=name, channel=-1, start=0, end=length, speech_prob=1, cut_reason="end")
        )
        text = "ask not what" if number % 7 else "far too much text for a segment that is this short " * 9
        transcripts.append(Transcript(segment_id=key, text=text, language="en", asr="test"))
    tables = {"transcripts": transcripts, "segments": segments, "recordings": recordings}

    class Reader:
        def read(self, recording, channel=-1):
            return audio[recording.recording_id]

    alone = stage.run(tables, Reader())
    steps = []

    def hear(clips):
        steps.append(len(clips))
        return [stage._aligner._model.log_probs(clip) for clip in clips]

    monkeypatch.setattr(stage._aligner._model, "batch_size", 16)
    monkeypatch.setattr(stage._aligner, "hear", hear)
    assert stage.run(tables, Reader()) == alone
    assert alone.rows
    assert alone.rejects
    assert np.mean(steps) >= 14
    assert stage.halve_batch()
    assert stage._aligner.batch_size == 8


@pytest.mark.parametrize("delimiter", [True, False])
def test_the_stage_runs_on_real_speech_and_every_word_is_in_bounds(delimiter, tmp_path):
    """A random model hears nothing, so the score floor is off; what must hold is the form: order, bounds, spans, scores."""
    audio, _ = soundfile.read(DEMO / "jfk_inaugural_1961.flac", dtype="float32")
    text = "And so, my fellow Americans, ask not what your country can do for you; 1961."
    spec = CtcSpec(model=save_ctc(tmp_path, delimiter=delimiter), device="cpu", min_score=0, min_coverage=0)
    stage = WordsStage(spec)
    stage.open()
    key = segment_id("jfk", 0, len(audio))
    segment = Segment(
        segment_id=key, recording_id="jfk", channel=-1, start=0, end=len(audio), speech_prob=1.0, cut_reason="end"
    )
    recording = Recording(
        recording_id="jfk", uri="x", source="x", bytes=1, sha256="x", codec="x", sample_rate=16_000, channels=1,
        num_samples=len(audio), num_samples_16k=len(audio),
    )  # fmt: skip
    transcript = Transcript(segment_id=key, text=text, language="en", asr="test")
    tables = {"transcripts": [transcript], "segments": [segment], "recordings": [recording]}

    class Reader:
        def read(self, recording, channel=-1):
            return audio

    result = stage.run(tables, Reader())
    assert not result.rejects
    assert [word.text for word in result.rows] == [token.text for token in tokenise(text)]
    end = 0
    for word in result.rows:
        assert text[word.char_start : word.char_end] == word.text
        assert end <= word.start < word.end <= len(audio)
        assert 0 <= word.score <= 1
        end = word.end


def test_missing_pieces_are_sentences(tmp_path):
    with pytest.raises(ModelError, match="no directory"):
        CtcAligner(CtcSpec(model=str(tmp_path / "none"))).card()
    path = Path(save_ctc(tmp_path / "m"))
    card = CtcAligner(CtcSpec(model=str(path))).card()
    (path / "vocab.json").write_text(json.dumps({"<pad>": 0, "ab": 1}))
    assert CtcAligner(CtcSpec(model=str(path))).card().card_id != card.card_id
    with pytest.raises(ConfigError, match="no letters"):
        CtcAligner(CtcSpec(model=str(path))).open()
    (path / "vocab.json").unlink()
    with pytest.raises(ConfigError, match=r"no vocab\.json"):
        CtcAligner(CtcSpec(model=str(path))).card()


def test_priors_beside_the_model_divide_its_probabilities(tmp_path):
    generator = np.random.default_rng(0)
    path = Path(save_ctc(tmp_path))
    audio = (generator.standard_normal(8_000) * 0.1).astype(np.float32)

    def emissions():
        model = CtcModel(CtcSpec(model=str(path), device="cpu"))
        model.open()
        return model.log_probs(audio), model.files()

    plain, files = emissions()
    priors = {label: (index + 1) / 500 for index, label in enumerate(LABELS)}
    (path / "label_priors.json").write_text(json.dumps(priors))
    divided, files_with = emissions()
    expected = plain - np.log(np.array(list(priors.values())) + 1e-4)
    np.testing.assert_allclose(divided, expected - np.log(np.exp(expected).sum(axis=1, keepdims=True)), atol=1e-4)
    assert set(files_with) - set(files) == {"label_priors.json"}
    (path / "label_priors.json").write_text(json.dumps({"a": 0.5}))
    with pytest.raises(ConfigError, match="each of the 30 labels"):
        emissions()
