"""WhisperX's aligner behind our Protocol: one timing per token, in order, from a local directory, without the network."""

import json

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from pipeline.align.base import AlignError, WordTiming
from pipeline.align.whisperx import WhisperXAligner, _without_overlap
from pipeline.text.tokens import tokenise
from schemas.errors import ModelError
from schemas.spec import WhisperXAlignSpec

LABELS = ("<pad>", "<unk>", "|", "'", *"abcdefghijklmnopqrstuvwxyz")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("ctc")
    config = Wav2Vec2Config(
        vocab_size=len(LABELS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        conv_dim=[16] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, pad_token_id=0,
    )  # fmt: skip
    Wav2Vec2ForCTC(config).eval().save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({label: index for index, label in enumerate(LABELS)}))
    tokenizer = Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"), unk_token="<unk>", pad_token="<pad>", bos_token=None, eos_token=None
    )
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    return str(folder)


def test_one_timing_per_token_in_order(model):
    pytest.importorskip("whisperx")
    audio, _ = soundfile.read("data/demo/sense_and_sensibility_0880.flac", dtype="float32")
    aligner = WhisperXAligner(WhisperXAlignSpec(model=model, min_score=0, device="cpu"))
    aligner.open()
    tokens = tokenise("He was not an ill-disposed young man, of 21!")
    timings = aligner.align(audio, tokens, "en").timings
    assert len(timings) == len(tokens)
    end = 0
    for timing in timings:
        if timing is not None:
            assert end <= timing.start < timing.end <= len(audio)
            assert timing.timing == "aligned"
            end = timing.end
    assert sum(timing is not None for timing in timings) > len(tokens) / 2
    strict = WhisperXAligner(WhisperXAlignSpec(model=model, min_score=1, device="cpu"))
    strict.open()
    with pytest.raises(AlignError, match=r"mean score is 0\.\d+ and words\.min_score is 1"):
        strict.align(audio, tokens, "en")


def test_overlaps_from_rounding_give_way_to_the_earlier_word():
    def timing(start, end):
        return WordTiming(start=start, end=end, score=0.5, timing="aligned")

    placed = _without_overlap([timing(0, 100), timing(90, 200), None, timing(150, 199), timing(200, 300)])
    assert placed == [timing(0, 100), timing(100, 200), None, None, timing(200, 300)]


def test_a_missing_model_is_a_sentence(tmp_path):
    with pytest.raises(ModelError, match="no directory"):
        WhisperXAligner(WhisperXAlignSpec(model=str(tmp_path / "none"))).card()


def test_the_card_names_the_version(model):
    pytest.importorskip("whisperx")
    card = WhisperXAligner(WhisperXAlignSpec(model=model)).card()
    assert set(card.facts) == {"files", "whisperx"}
    assert np.all([len(digest) == 64 for digest in card.facts["files"].values()])
