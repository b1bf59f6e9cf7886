"""Flite by ctypes: audio with the exact times of its phones. Needs the libraries of Debian's flite1-dev."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from recipes.voices.settings import SAMPLE_RATE
from recipes.voices.store import Phone, VoicedSentence
from recipes.voices.texts import words_of


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


def available() -> bool:
    """Whether the flite libraries are installed."""
    try:
        _library()
    except OSError:
        return False
    return True


@cache
def _library() -> Any:
    # The language and lexicon libraries resolve their symbols against each other: hence RTLD_GLOBAL.
    flite, *_ = [
        ctypes.CDLL(f"lib{name}.so.1", mode=ctypes.RTLD_GLOBAL) for name in ("flite", "flite_usenglish", "flite_cmulex")
    ]
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    signatures = {
        "flite_synth_text": (pointer, [text, pointer]),
        "utt_wave": (ctypes.POINTER(_Wave), [pointer]),
        "utt_relation": (pointer, [pointer, text]),
        "relation_head": (pointer, [pointer]),
        "item_next": (pointer, [pointer]),
        "ffeature_string": (text, [pointer, text]),
        "ffeature_float": (ctypes.c_float, [pointer, text]),
        "delete_utterance": (None, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(flite, name)
        function.restype, function.argtypes = result, arguments
    flite.flite_init()
    return flite


@cache
def _voice(name: str) -> int:
    register = getattr(ctypes.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
    register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    return int(register(None))


@contextmanager
def _spoken(text: str, voice: str) -> Iterator[tuple[Any, np.ndarray]]:
    """Flite's utterance, valid inside the block, and its int16 audio.

    Raises:
        OSError: the flite libraries are not installed.
    """
    flite = _library()
    utterance = flite.flite_synth_text(text.encode("ascii"), _voice(voice))
    try:
        wave = flite.utt_wave(utterance).contents
        assert (wave.sample_rate, wave.num_channels) == (SAMPLE_RATE, 1), "all four voices are 16 kHz mono"
        yield utterance, np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).copy()
    finally:
        flite.delete_utterance(utterance)


def speak(text: str, voice: str) -> np.ndarray:
    """int16 [samples]: any text in ASCII, without times.

    Raises:
        OSError: the flite libraries are not installed.
    """
    with _spoken(text, voice) as (_, audio):
        return audio


def synthesise(sentence: str, voice: str) -> VoicedSentence | None:
    """Speak a sentence, a final period or none; its words come in lower case, as flite names them.

    None where flite's words are not the sentence's (it reads numbers and some spellings in its own way), where there are none,
    and where a letter is not in ASCII.

    Raises:
        OSError: the flite libraries are not installed.
    """
    segments = []
    sentence = sentence.removesuffix(".")
    if not sentence.isascii() or not words_of(sentence):
        return None
    with _spoken(sentence + ".", voice) as (utterance, audio):
        flite = _library()
        item = flite.relation_head(flite.utt_relation(utterance, b"Segment"))
        while item:
            name = flite.ffeature_string(item, b"name").decode()
            word = flite.ffeature_string(item, b"R:SylStructure.parent.parent.name").decode().lower()
            segments.append((name, round(flite.ffeature_float(item, b"end") * SAMPLE_RATE), word))
            item = flite.item_next(item)
    words = words_of(sentence.lower())
    phones = _assign(segments, words, len(audio))
    return None if phones is None else VoicedSentence(voice=f"flite-{voice}", words=words, audio=audio, phones=phones)


def _assign(segments: list[tuple[str, int, str]], words: tuple[str, ...], num_samples: int) -> tuple[Phone, ...] | None:
    """Phones with the index of their word in the sentence. Flite drops apostrophes and splits off a possessive 's."""
    phones = []
    start, index, spoken, current = 0, -1, "", ""
    for name, stop, word in segments:
        end = min(stop, num_samples)
        if name == "pau":
            phones.append(Phone(name="sil", start=start, end=end, word=-1))
        else:
            if word != current:
                target = words[index].replace("'", "") if index >= 0 else ""
                if spoken == target:
                    index, spoken = index + 1, ""
                    if index == len(words):
                        return None
                spoken += word.replace("'", "")
                if not words[index].replace("'", "").startswith(spoken):
                    return None
            phones.append(Phone(name=name, start=start, end=end, word=index))
        start, current = end, word
    complete = index == len(words) - 1 and spoken == words[-1].replace("'", "")
    valid = all(phone.end > phone.start for phone in phones if phone.word >= 0)
    return tuple(phones) if complete and valid else None
