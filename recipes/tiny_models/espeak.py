"""IPA for the neural voices from eSpeak NG by ctypes (GPL-3: used as a tool, nothing of it is shipped)."""

from __future__ import annotations

import ctypes
import re
from functools import cache
from typing import Any

from recipes.tiny_models.settings import packages

_SYNCHRONOUS, _UTF8, _IPA = 2, 1, 2


@cache
def _library() -> Any:
    folder = packages() / "espeakng_loader" / "espeakng_loader"
    espeak = ctypes.CDLL(str(folder / "libespeak-ng.so"))
    espeak.espeak_TextToPhonemes.restype = ctypes.c_char_p
    espeak.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
    if espeak.espeak_Initialize(_SYNCHRONOUS, 0, str(folder / "espeak-ng-data").encode(), 0) < 0:
        raise OSError(f"eSpeak NG cannot start from {folder}")
    return espeak


def ipa(sentence: str, voice: str) -> str:
    """The sentence in IPA with its commas kept; `voice` is en-us or en-gb.

    Raises:
        OSError: the library is not under the packages folder.
    """
    espeak = _library()
    espeak.espeak_SetVoiceByName(voice.encode())
    clauses = []
    for clause in sentence.split(","):
        text, parts = ctypes.c_char_p(clause.strip().encode()), []
        while text.value:
            parts.append(espeak.espeak_TextToPhonemes(ctypes.byref(text), _UTF8, _IPA).decode())
        clauses.append(" ".join(parts).strip())
    return re.sub(r"\s+", " ", ", ".join(clauses)) + "."
