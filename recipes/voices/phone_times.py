"""Phone times for speech without them (neural voices, readers), by soundswallower: 9-12 ms off in the median."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import soundswallower

from recipes.voices.flite import synthesise
from recipes.voices.settings import SAMPLE_RATE
from recipes.voices.store import Phone, VoicedSentence
from recipes.voices.texts import pronounceable


class PhoneAligner:
    """Aligns utterances; words that the CMU dictionary lacks are pronounced as flite pronounces them."""

    def __init__(self) -> None:
        self._decoder = soundswallower.Decoder(hmm=soundswallower.get_model_path("en-us"), loglevel="FATAL")

    def align(self, utterance: VoicedSentence) -> VoicedSentence | None:
        """The utterance with phone times, or None where the aligner finds no path."""
        decoder = self._decoder
        for word in set(utterance.words) - pronounceable():
            if decoder.lookup_word(word) is None:
                decoder.add_word(word, _pronounce(word))
        decoder.set_align_text(" ".join(utterance.words))
        decoder.start_utt()
        decoder.process_raw(np.ascontiguousarray(utterance.audio).tobytes(), no_search=False, full_utt=True)
        decoder.end_utt()
        if decoder.hyp is None:
            return None
        phones, index = [], -1
        for word in json.loads(decoder.dumps(start_time=0.0, align_level=1)).get("w", []):
            silence = word["t"].startswith(("<", "["))
            if not silence:
                index += 1
                if index == len(utterance.words) or re.sub(r"\(\d+\)$", "", word["t"]) != utterance.words[index]:
                    return None
            for phone in word["w"]:
                start = round(phone["b"] * SAMPLE_RATE)
                end = min(round((phone["b"] + phone["d"]) * SAMPLE_RATE), len(utterance.audio))
                name = "sil" if silence else phone["t"].lower()
                phones.append(Phone(name=name, start=start, end=end, word=-1 if silence else index))
        if index != len(utterance.words) - 1 or any(phone.end <= phone.start for phone in phones if phone.word >= 0):
            return None
        return replace(utterance, phones=tuple(phones))


def _pronounce(word: str) -> str:
    spoken = synthesise(word, "kal16")
    if spoken is None:
        raise ValueError(f"flite does not say {word!r} as one word: take it out of the transcript")
    return " ".join({"ax": "AH"}.get(phone.name, phone.name.upper()) for phone in spoken.phones if phone.word == 0)
