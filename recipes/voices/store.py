"""Utterances: audio with its words and phones in samples, and their files (npz without pickles)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soxr

from recipes.voices.settings import SAMPLE_RATE
from schemas.files import whole_file


@dataclass(frozen=True, kw_only=True)
class Phone:
    """A phone of the ARPAbet without stress, [start, end) in samples. `word` is -1 for silence."""

    name: str
    start: int
    end: int
    word: int


@dataclass(frozen=True, kw_only=True)
class VoicedSentence:
    """One sentence by one voice. Without timing, `phones` is empty."""

    voice: str
    words: tuple[str, ...]
    audio: np.ndarray
    """int16, 16 kHz."""
    phones: tuple[Phone, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.audio) / SAMPLE_RATE

    def word_spans(self) -> list[tuple[int, int]]:
        """[start, end) in samples of each word, from its phones."""
        spans = []
        for index in range(len(self.words)):
            own = [phone for phone in self.phones if phone.word == index]
            spans.append((own[0].start, own[-1].end))
        return spans


def resample(utterance: VoicedSentence, factor: float) -> VoicedSentence:
    """The utterance `factor` times longer and lower in pitch: another speaker of a kind, with times still exact."""
    audio = soxr.resample(utterance.audio, SAMPLE_RATE, SAMPLE_RATE * factor, quality="MQ")
    scale = len(audio) / len(utterance.audio)
    phones = tuple(
        replace(phone, start=round(phone.start * scale), end=round(phone.end * scale)) for phone in utterance.phones
    )
    return replace(utterance, audio=audio, phones=phones)


def save(path: Path, utterances: Sequence[VoicedSentence]) -> None:
    """Write utterances to one npz: all audio end to end, and the rest as JSON. Published by renaming."""
    meta = [
        {
            "voice": item.voice,
            "words": item.words,
            "samples": len(item.audio),
            "phones": [(phone.name, phone.start, phone.end, phone.word) for phone in item.phones],
        }
        for item in utterances
    ]
    encoded = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    with whole_file(path) as temporary:
        np.savez(temporary, audio=np.concatenate([item.audio for item in utterances]), meta=encoded)


def load(path: Path) -> Iterator[VoicedSentence]:
    """The utterances of one file written by `save`."""
    with np.load(path, allow_pickle=False) as file:
        audio, meta = file["audio"], json.loads(file["meta"].tobytes())
    position = 0
    for item in meta:
        end = position + item["samples"]
        yield VoicedSentence(
            voice=item["voice"],
            words=tuple(item["words"]),
            audio=audio[position:end],
            phones=tuple(
                Phone(name=name, start=start, end=stop, word=word) for name, start, stop, word in item["phones"]
            ),
        )
        position = end
