"""Measures of a recogniser's text: known hallucinations, loops, and whether the language is one that was expected."""

from __future__ import annotations

import re
import unicodedata

from pipeline.text.languages import language_code

PHRASES = (
    "thank you for watching",
    "thanks for watching",
    "thank you so much for watching",
    "please subscribe",
    "please subscribe to my channel",
    "subscribe to my channel",
    "like and subscribe",
    "dont forget to subscribe",
    "see you in the next video",
    "ill see you in the next video",
    "subtitles by the amaraorg community",
    "subtitles created by",
    "transcription by castingwords",
    "transcribed by",
    "translated by",
    "untertitel der amaraorg community",
    "untertitel im auftrag des zdf",
    "vielen dank fürs zuschauen",
    "sous titres réalisés par la communauté damaraorg",
    "merci davoir regardé cette vidéo",
    "subtítulos realizados por la comunidad de amaraorg",
    "gracias por ver el video",
    "suscríbete al canal",
    "sottotitoli creati dalla comunità amaraorg",
    "legendas pela comunidade amaraorg",
    "ondertitels ingediend door de amaraorg gemeenschap",
    "продолжение следует",
    "спасибо за просмотр",
    "субтитры сделал",
    "ご視聴ありがとうございました",
    "请不吝点赞订阅转发打赏支持明镜与点点栏目",
    "시청해주셔서 감사합니다",
)
"""What Whisper is known to say where nobody speaks: the ends of films that it was trained on. Folded as `fold` does."""
LONGEST_LOOP = 8
"""Words of a stretch that may repeat."""
REPEATS = 3
"""A stretch said this often on end is a loop; people say things twice."""


def fold(text: str) -> str:
    """Lower case, letters, digits and single spaces alone, so that phrases are found however they are written."""
    kept = (char if char.isalnum() or unicodedata.category(char).startswith("M") else " " for char in _joined(text))
    return " ".join("".join(kept).lower().split())


def _joined(text: str) -> str:
    return re.sub(r"(?<=\w)['’.](?=\w)", "", text)


def hallucinated(text: str) -> float:
    """Share of the text's characters that are known hallucinations, [0, 1]."""
    folded = fold(text)
    covered = bytearray(len(folded))
    for phrase in PHRASES:
        for match in re.finditer(
            rf"(?<!\w){re.escape(phrase)}(?!\w)" if phrase.isascii() else re.escape(phrase), folded
        ):
            covered[match.start() : match.end()] = b"\x01" * (match.end() - match.start())
    return sum(covered) / len(folded) if folded else 0.0


def looped(text: str) -> float:
    """Share of the words that stand in a stretch of 1 to 8 words said three times or more on end, [0, 1].

    Texts without spaces are taken by character.
    """
    folded = fold(text)
    words = folded.split() if " " in folded else list(folded)
    in_loop = bytearray(len(words))
    for size in range(1, LONGEST_LOOP + 1):
        start = 0
        while start + size * REPEATS <= len(words):
            end = start + size
            while words[end : end + size] == words[start : start + size]:
                end += size
            if end - start >= size * REPEATS:
                in_loop[start:end] = b"\x01" * (end - start)
                start = end
            else:
                start += 1
    return sum(in_loop) / len(words) if words else 0.0


def agrees(heard: str, wanted: str | None) -> bool | None:
    """Whether two names mean one language; None where none is wanted."""
    return None if wanted is None else language_code(heard) == language_code(wanted)
