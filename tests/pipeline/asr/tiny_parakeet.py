"""A random Parakeet-CTC of nearly no size, written as transformers writes one."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
PIECES = ["<unk>", "\u2581", *("\u2581" + letter for letter in LETTERS), *LETTERS, "\u2581the", "er", "ing"]
BLANK = len(PIECES)


def tiny_tokenizer() -> Tokenizer:
    """Words as the longest pieces, a word's first with SentencePiece's mark."""
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0 / len(piece)) for piece in PIECES], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def write_parakeet(folder: Path) -> Path:
    """The model's directory."""
    from transformers import ParakeetCTCConfig, ParakeetEncoderConfig, ParakeetFeatureExtractor, ParakeetForCTC

    encoder = ParakeetEncoderConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        subsampling_conv_channels=8,
    )
    torch.manual_seed(0)
    model = ParakeetForCTC(
        ParakeetCTCConfig(vocab_size=BLANK + 1, pad_token_id=BLANK, encoder_config=encoder.to_dict())
    )
    torch.nn.init.normal_(model.ctc_head.weight)
    model.ctc_head.bias.data[[0, BLANK]] = -100.0  # so that it says something
    model.save_pretrained(folder)
    ParakeetFeatureExtractor().save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder
