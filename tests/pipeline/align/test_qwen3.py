"""Qwen3's forced aligner on a tiny random model of transformers' own classes, written as transformers writes one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers

from pipeline.align.base import AlignError
from pipeline.align.qwen3 import QwenAligner
from pipeline.text.tokens import tokenise
from schemas.config import ConfigError
from schemas.spec import QwenAlignSpec

RATE = 16_000
CLASSES = 100
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
    "<|audio_start|><|audio_pad|><|audio_end|>{% elif part['type'] == 'text' %}{{ part['text'] }}<timestamp><timestamp>"
    "{% endif %}{% endfor %}{% endfor %}"
)
TEXT = "Unless, to be rather \u4e2d\u56fd selfish \u2014 he's!"


def write_qwen(folder: Path) -> Path:
    """A model, its tokenizer of single bytes, its features and its template."""
    from transformers import (
        Qwen2Tokenizer,
        Qwen3ASRConfig,
        Qwen3ASRFeatureExtractor,
        Qwen3ASRForTokenClassification,
        Qwen3ASRProcessor,
    )

    tokens = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}
    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(
        vocab=alphabet, merges=[], extra_special_tokens={**tokens, "timestamp_token": "<timestamp>"}
    )
    extractor = Qwen3ASRFeatureExtractor()
    Qwen3ASRProcessor(feature_extractor=extractor, tokenizer=tokenizer, chat_template=TEMPLATE).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3ASRConfig(
        audio_config={
            "model_type": "qwen3_asr_encoder", "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
            "d_model": 16, "output_dim": 24, "downsample_hidden_size": 8,
        },
        text_config={
            "model_type": "qwen3", "vocab_size": len(tokenizer), "hidden_size": 24, "intermediate_size": 48,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 12,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
        timestamp_token_id=tokenizer.convert_tokens_to_ids("<timestamp>"),
        pad_token_id=0,
        num_labels=CLASSES,
    )  # fmt: skip
    Qwen3ASRForTokenClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen(tmp_path_factory.mktemp("qwen"))


def opened(folder: Path, **more: Any) -> QwenAligner:
    aligner = QwenAligner(QwenAlignSpec(model=str(folder), **more))
    aligner.open()
    return aligner


def oracle(aligner: QwenAligner, classes: list[int], sure: float = 9.0) -> None:
    """Let the model put its time marks where `classes` says; everything else of it stays."""
    model = aligner._model

    class Oracle:
        config = model.config

        def __call__(self, **inputs: torch.Tensor) -> SimpleNamespace:
            logits = model(**inputs).logits
            assert torch.isfinite(logits).all()
            marks = inputs["input_ids"][0] == model.config.timestamp_token_id
            assert int(marks.sum()) == len(classes)
            logits[0, marks] = sure * torch.nn.functional.one_hot(torch.tensor(classes), CLASSES).float()
            return SimpleNamespace(logits=logits)

    aligner._model = Oracle()


def test_words_are_where_the_marks_are_and_have_their_probability(folder: Path) -> None:
    aligner = opened(folder)
    tokens = tokenise(TEXT)
    assert "".join(token.text for token in tokens).startswith("Unless")
    pairs = [(2, 6), (6, 7), (8, 10), (10, 14), (15, 17), (17, 19), (20, 26), (26, 30)]  # one pair a word or character
    oracle(aligner, [mark for pair in pairs for mark in pair])
    timings = aligner.align(np.zeros(3 * RATE, np.float32), tokens, "en").timings
    by_text = {token.text: timing for token, timing in zip(tokens, timings, strict=True)}
    seconds = {text: (t.start / RATE, t.end / RATE) for text, t in by_text.items() if t is not None}
    assert seconds["Unless"] == (0.16, 0.48)
    assert seconds["selfish"] == (1.6, 2.08)
    assert seconds["he's"] == (2.08, 2.4)
    likeliest = float(torch.softmax(torch.tensor([9.0] + [0.0] * (CLASSES - 1)), 0)[0])
    assert [t.score for t in by_text.values() if t is not None] == pytest.approx([likeliest] * len(seconds))


def test_times_stay_inside_the_segment_and_in_order(folder: Path) -> None:
    aligner = opened(folder)
    oracle(aligner, [40, 50, 20, 30, 60, 99])
    timings = aligner.align(np.zeros(RATE, np.float32), tokenise("one two three"), "en").timings
    for timing in timings:
        assert timing is not None
        assert 0 <= timing.start < timing.end <= RATE
    starts = [timing.start for timing in timings if timing is not None]
    assert starts == sorted(starts)


def test_unsure_times_and_other_languages_are_rejected_with_a_sentence(folder: Path) -> None:
    aligner = opened(folder)
    with pytest.raises(AlignError, match=r"min_score is 0.1: text and audio do not belong together"):
        aligner.align(np.zeros(RATE, np.float32), tokenise("one two"), "en")  # random weights are sure of nothing
    with pytest.raises(AlignError, match=r"knows de, en, .* the language is 'hi'"):
        aligner.align(np.zeros(RATE, np.float32), tokenise("one two"), "hi")


def test_what_is_no_forced_aligner_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("kind", "head", "template"):
        shutil.copytree(folder, tmp_path / name)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "kind/config.json").write_text(json.dumps(config | {"model_type": "qwen3"}))
    with pytest.raises(ConfigError, match="'qwen3' model; a Qwen3ASRForTokenClassification"):
        opened(tmp_path / "kind")
    weights = load_file(tmp_path / "head/model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "score" not in name}, tmp_path / "head/model.safetensors"
    )
    with pytest.raises(ConfigError, match=r"lacks the weights score.weight: it recognises speech"):
        opened(tmp_path / "head")
    (tmp_path / "template/chat_template.jinja").write_text(TEMPLATE.replace("<timestamp><timestamp>", "<timestamp>"))
    aligner = opened(tmp_path / "template")
    with pytest.raises(ConfigError, match="2 time marks after 2 words"):
        aligner.align(np.zeros(RATE, np.float32), tokenise("one two"), "en")
    assert opened(folder).card().name == folder.name
