"""The letter head on a Whisper encoder, over an encoder of random weights in the file format of CTranslate2."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import WhisperConfig, WhisperModel

from pipeline.align.ctc import CtcAligner
from pipeline.align.whisper_letters import WhisperLetters
from pipeline.networks.letter_head import LetterHead
from pipeline.networks.whisper.encoder import WhisperEncoder, hash_tensors, read_ctranslate2
from pipeline.text.tokens import tokenise
from schemas.config import ConfigError
from schemas.errors import ModelError
from schemas.spec import CtcSpec

ROOT = Path(__file__).parents[3]
VOCABULARY = ("<pad>", "<unk>", "|", "'", *"abcdefghijklmnopqrstuvwxyz")
WIDTH, LAYERS = 64, 2
DEMO_WHISPER = ROOT / "models" / "whisper-tiny.en"


@pytest.fixture(scope="module")
def reference() -> WhisperModel:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=WIDTH, encoder_layers=LAYERS, encoder_attention_heads=1, encoder_ffn_dim=96,
        decoder_layers=1, decoder_attention_heads=1, decoder_ffn_dim=32, vocab_size=20, pad_token_id=0,
        bos_token_id=0, eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    return WhisperModel(config).eval()


@pytest.fixture(scope="module")
def whisper(reference: WhisperModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whisper")
    write_ctranslate2(folder / "model.bin", reference)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture
def head(whisper: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "head"
    folder.mkdir()
    torch.manual_seed(1)
    made = LetterHead(width=WIDTH, num_states=LAYERS + 1, hidden=8, num_convolutions=2, num_labels=len(VOCABULARY))
    save_file({name: value.half() for name, value in made.state_dict().items()}, folder / "model.safetensors")
    labels = {label: index for index, label in enumerate(VOCABULARY)}
    config = {
        "model_type": "whisper-letters", "encoder": "random", "hidden": 8, "num_convolutions": 2,
        "encoder_sha256": hash_tensors(read_ctranslate2(whisper / "model.bin")),
    }  # fmt: skip
    for name, document in (("vocab", labels), ("config", config)):
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def write_ctranslate2(path: Path, model: WhisperModel) -> None:
    """The encoder as CTranslate2 stores it, in float32: queries, keys and values fused, zeros for the bias that keys lack."""
    own = {name.removeprefix("encoder."): value for name, value in model.state_dict().items() if "encoder." in name[:8]}
    tensors = {f"{conv}/{part}": own[f"{conv}.{part}"] for conv in ("conv1", "conv2") for part in ("weight", "bias")}
    tensors["position_encodings/encodings"] = own["embed_positions.weight"]
    for layer in range(LAYERS):
        theirs, ours = f"layers.{layer}.", f"layer_{layer}/"
        attention = {name: own[f"{theirs}self_attn.{name}_proj.weight"] for name in "qkv"}
        q_bias, v_bias = (own[f"{theirs}self_attn.{name}_proj.bias"] for name in "qv")
        tensors[f"{ours}self_attention/linear_0/weight"] = torch.cat(list(attention.values()))
        tensors[f"{ours}self_attention/linear_0/bias"] = torch.cat([q_bias, torch.zeros(WIDTH), v_bias])
        pairs = {"self_attention/linear_1": "self_attn.out_proj", "ffn/linear_0": "fc1", "ffn/linear_1": "fc2"}
        for name, other in pairs.items():
            tensors |= {f"{ours}{name}/{part}": own[f"{theirs}{other}.{part}"] for part in ("weight", "bias")}
        for name, other in {"self_attention": "self_attn_layer_norm", "ffn": "final_layer_norm"}.items():
            tensors[f"{ours}{name}/layer_norm/gamma"] = own[f"{theirs}{other}.weight"]
            tensors[f"{ours}{name}/layer_norm/beta"] = own[f"{theirs}{other}.bias"]

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    blob = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    for name, value in tensors.items():
        data = value.numpy().astype("<f4").tobytes()
        shape = struct.pack(f"<B{value.dim()}I", value.dim(), *value.shape)
        blob += text(f"encoder/{name}") + shape + struct.pack("<BI", 0, len(data)) + data
    path.write_bytes(blob)


def letters_of(head: Path, whisper: Path, **fields: float) -> WhisperLetters:
    model = WhisperLetters(CtcSpec(format="whisper", model=str(head), encoder=str(whisper), device="cpu", **fields))
    model.open()
    return model


def test_states_are_those_of_transformers_whisper(reference: WhisperModel, whisper: Path) -> None:
    encoder = WhisperEncoder.load(read_ctranslate2(whisper / "model.bin"))
    wave = torch.randn(1, 30 * 16_000, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        mel = encoder.log_mel(wave)
        ours = encoder(mel)
        theirs = reference.encoder(mel, output_hidden_states=True).hidden_states
    assert mel.shape == (1, 80, 3000)
    for mine, other in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    normed = F.layer_norm(ours[-1], (WIDTH,))
    torch.testing.assert_close(normed, theirs[-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("samples", [0, 319, 320, 481, 16_001])
def test_any_length_gives_its_whole_frames(head: Path, whisper: Path, samples: int) -> None:
    emissions = letters_of(head, whisper).log_probs(np.zeros(samples, np.float32))
    assert emissions.shape == (samples // 320, len(VOCABULARY))
    np.testing.assert_allclose(np.exp(emissions).sum(axis=1), 1, atol=1e-5)


def test_audio_beyond_thirty_seconds_goes_through_in_windows(head: Path, whisper: Path) -> None:
    """The kept frames of a window are what that window alone gives: the context is heard and dropped."""
    model = letters_of(head, whisper, window_seconds=2, context_seconds=1)
    audio = np.random.default_rng(0).normal(size=16_000 * 7).astype(np.float32)
    emissions = model.log_probs(audio)
    assert emissions.shape == (350, len(VOCABULARY))
    alone = letters_of(head, whisper).log_probs(audio)
    assert np.abs(emissions - alone).max() > 1e-3, "windows differ from the whole: the positions begin anew"
    assert np.isfinite(emissions).all()
    assert letters_of(head, whisper).log_probs(np.tile(audio, 5)).shape == (1750, len(VOCABULARY))


def test_a_head_refuses_the_encoder_of_another_whisper(head: Path, whisper: Path) -> None:
    config = json.loads((head / "config.json").read_text(encoding="utf-8"))
    (head / "config.json").write_text(json.dumps({**config, "encoder_sha256": "0" * 64}), encoding="utf-8")
    with pytest.raises(ConfigError, match="was trained on the encoder of random"):
        letters_of(head, whisper)


def test_what_is_missing_is_said_before_anything_is_loaded(head: Path, whisper: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"words\.encoder: there is no directory.*jobs\.fetch_models"):
        CtcAligner(CtcSpec(format="whisper", model=str(head), encoder=str(tmp_path / "none"))).card()
    (head / "config.json").write_text('{"model_type": "wav2vec2"}', encoding="utf-8")
    with pytest.raises(ConfigError, match="no letter head"):
        CtcAligner(CtcSpec(format="whisper", model=str(head), encoder=str(whisper))).card()
    with pytest.raises(ValueError, match="format: whisper"):
        CtcSpec(model=str(head), encoder=str(whisper))
    (tmp_path / "model.bin").write_bytes((whisper / "model.bin").read_bytes()[:5000])
    with pytest.raises(ConfigError, match="fetch it again"):
        read_ctranslate2(tmp_path / "model.bin")


@pytest.mark.skipif(not (DEMO_WHISPER / "model.bin").is_file(), reason="needs `make models`")
def test_the_kennedy_clip_is_right_in_every_word() -> None:
    """A telephone-like recording of 1961, by a reader who was in no training; the times are soundswallower's and a listener's."""
    wanted = {"and": 0.29, "fellow": 1.25, "americans": 1.66, "ask": 3.28, "what": 5.36, "country": 5.85, "can": 6.43}
    spec = CtcSpec(format="whisper", model=str(ROOT / "assets" / "whisper-tiny-letters"), encoder=str(DEMO_WHISPER))
    aligner = CtcAligner(spec)
    aligner.open()
    audio, _ = soundfile.read(ROOT / "data" / "demo" / "jfk_inaugural_1961.flac", dtype="float32")
    text = "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country."
    tokens = tokenise(text)
    heard = {}
    for token, timing in zip(tokens, aligner.align(audio, tokens, "en").timings, strict=True):
        assert timing is not None
        heard.setdefault(token.spoken[0], (timing.start / 16_000, timing.end / 16_000))
    for word, start in wanted.items():
        assert heard[word][0] == pytest.approx(start, abs=0.07), word
    assert heard["americans"][1] == pytest.approx(2.32, abs=0.07), (
        "the word ends where its sound ends, before the pause"
    )
