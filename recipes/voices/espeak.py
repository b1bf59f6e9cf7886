"""eSpeak NG by ctypes: IPA for the neural voices, and speech (GPL-3: used as a tool, nothing of it is shipped)."""

from __future__ import annotations

import ctypes
import re
from functools import cache
from typing import Any

import numpy as np
import soxr

from recipes.voices.settings import SAMPLE_RATE, packages

_SYNCHRONOUS, _UTF8, _IPA = 2, 1, 2
_RATE = 22_050
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@cache
def _library() -> Any:
    folder = packages() / "espeakng_loader" / "espeakng_loader"
    espeak = ctypes.CDLL(str(folder / "libespeak-ng.so"))
    espeak.espeak_TextToPhonemes.restype = ctypes.c_char_p
    espeak.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
    espeak.espeak_Synth.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
        ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    if espeak.espeak_Initialize(_SYNCHRONOUS, 0, str(folder / "espeak-ng-data").encode(), 0) != _RATE:
        raise OSError(f"eSpeak NG cannot start from {folder}")
    return espeak


def speak(text: str, voice: str) -> np.ndarray:
    """int16 [samples] at 16 kHz. `voice`: a language, and a variant if need be, such as en-us or en+f2.

    The synthesiser keeps state: only what is spoken first in a process has the same bytes as in another process.

    Raises:
        OSError: the library is not under the packages folder.
        ValueError: it has no such voice.
    """
    espeak, pieces = _library(), []

    def receive(samples: Any, count: int, _: Any) -> int:
        if samples and count:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _Callback(receive)
    espeak.espeak_SetSynthCallback(callback)
    _set_voice(voice)
    content = text.encode()
    espeak.espeak_Synth(content, len(content) + 1, 0, 0, 0, _UTF8, None, None)
    wave: np.ndarray = soxr.resample(np.concatenate(pieces), _RATE, SAMPLE_RATE)
    return wave


def _set_voice(voice: str) -> None:
    """Raises ValueError where there is no such voice: the library would go on with the last one, or crash without one."""
    if _library().espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"eSpeak NG has no voice {voice!r}")


def ipa(sentence: str, voice: str) -> str:
    """The sentence in IPA with its commas kept; `voice` is en-us, or en, which is British.

    Raises:
        OSError: the library is not under the packages folder.
        ValueError: it has no such voice.
    """
    espeak = _library()
    _set_voice(voice)
    clauses = []
    for clause in sentence.split(","):
        text, parts = ctypes.c_char_p(clause.strip().encode()), []
        while text.value:
            parts.append(espeak.espeak_TextToPhonemes(ctypes.byref(text), _UTF8, _IPA).decode())
        clauses.append(" ".join(parts).strip())
    return re.sub(r"\s+", " ", ", ".join(clauses)) + "."
