"""Make the training speech: `python -m recipes.tiny_models.corpus SOURCE`. Finished parts are not made again."""

from __future__ import annotations

import csv
import random
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from recipes.tiny_models import speech
from recipes.tiny_models.settings import ACCENTS, TRAIN_FLITE, UNSEEN_KOKORO, UNSEEN_REAL
from recipes.voices import flite, neural, texts
from recipes.voices.phone_times import PhoneAligner
from recipes.voices.settings import SEED, root
from recipes.voices.store import VoicedSentence, load, resample, save
from schemas.commands.cli import Parser, command

HELD_OUT_SENTENCES = 30
"""Per voice: two minutes."""
ACCENT_SENTENCES = 10
"""Per voice, each sentence by one voice alone: seven minutes in all."""
SENTENCES_PER_PART = 80
"""Five minutes of speech or so: what an interruption can cost."""
DEMO_SPEECH = Path(__file__).parents[2] / "data" / "demo"
SPEED_RANGE = (0.82, 1.25)
"""Of the copies that are resampled; two in three are."""
COPIES = 3
"""Resampled copies of the Kokoro voices, each a speaker of another size: a cheap way to many speakers."""


def parts(source: str, num_parts: int) -> list[Path]:
    """The first finished training files of every voice of a source, in a fixed order.

    Raises:
        FileNotFoundError: a part is missing.
    """
    voices = sorted({path.stem[:-4] for path in (root() / "corpus" / source).glob("*-000.npz")})
    found = [
        root() / "corpus" / source / f"{voice}-{number:03d}.npz" for voice in voices for number in range(num_parts)
    ]
    missing = [path.name for path in found if not path.exists()]
    if missing or not found:
        raise FileNotFoundError(
            f"{source} lacks {missing or 'everything'}: run `python -m recipes.tiny_models.corpus {source}`"
        )
    return found


def make_flite(num_parts: int) -> None:
    """Three voices with exact times, two thirds of the sentences at another speed and pitch;
    the unseen voice is left out."""
    for number, voice in enumerate(TRAIN_FLITE):

        def speak(sentence: str, voice: str = voice) -> VoicedSentence | None:
            made = flite.synthesise(sentence, voice)
            return None if made is None else _vary(made)

        _write_parts("flite", voice, texts.sentences("train")[number::5], speak, num_parts)


def make_kokoro(num_parts: int) -> None:
    """Natural voices, drawn per sentence and timed by soundswallower; four voices are left out."""
    aligner = PhoneAligner()
    voices = [voice for voice in neural.kokoro_voices() if voice not in UNSEEN_KOKORO]
    sentences = [text for text in texts.sentences("train")[3::5] if 20 < len(text) < 90]

    def speak(sentence: str) -> VoicedSentence | None:
        return aligner.align(neural.kokoro(sentence, random.Random(f"{SEED}-{sentence}").choice(voices)))

    _write_parts("kokoro", "mixed", sentences, speak, num_parts)
    for number in range(num_parts):
        path = root() / "corpus" / "kokoro" / f"resampled-{number:03d}.npz"
        if not path.exists():
            rng = random.Random(f"{SEED}-{path.name}")
            made = list(load(root() / "corpus" / "kokoro" / f"mixed-{number:03d}.npz"))
            save(path, [resample(item, rng.uniform(*SPEED_RANGE)) for _ in range(COPIES) for item in made])


def make_piper(num_parts: int) -> None:
    """One natural voice, timed by soundswallower, two thirds of the sentences at another speed and pitch."""
    aligner = PhoneAligner()

    def speak(sentence: str) -> VoicedSentence | None:
        made = aligner.align(neural.piper(sentence))
        return None if made is None else _vary(made)

    _write_parts("piper", "joe", texts.sentences("train")[4::5], speak, num_parts)


def _vary(utterance: VoicedSentence) -> VoicedSentence:
    rng = random.Random(f"{SEED}-{utterance.voice}-{utterance.words}")
    return resample(utterance, rng.uniform(*SPEED_RANGE)) if rng.random() < 2 / 3 else utterance


def make_real(copies: int) -> None:
    """The real readers that are not held out, in pieces of up to ~12 s, with resampled copies;
    timed by soundswallower."""
    rng = random.Random(f"{SEED}-real")
    pieces = [piece for utterance in real_clips(unseen=False) for piece in _split(utterance)]
    made = [
        piece if copy == 0 else resample(piece, rng.uniform(*SPEED_RANGE)) for copy in range(copies) for piece in pieces
    ]
    save(root() / "corpus" / "real" / "read-000.npz", made)


def make_held_out() -> None:
    """The Kokoro voices that no training hears, with sentences of the test split, timed by soundswallower: for measuring only."""
    aligner = PhoneAligner()
    sentences = [text for text in speech.sentences() if len(text) < 90][:HELD_OUT_SENTENCES]
    for voice in UNSEEN_KOKORO:
        path = speech.held_out_kokoro(voice)
        if not path.exists():
            timed = [aligner.align(neural.kokoro(sentence, voice)) for sentence in sentences]
            save(path, [item for item in timed if item is not None])
            print(path.name, flush=True)


def make_accents() -> None:
    """Sentences of the test split that `speech.sentences` lacks, by voices of other languages; no times: for measuring belief."""
    fresh = [text for text in texts.sentences("test") if text not in speech.sentences() and 30 < len(text) < 90]
    for number, voice in enumerate(ACCENTS):
        path = speech.accents(voice)
        if not path.exists():
            own = fresh[number * ACCENT_SENTENCES : (number + 1) * ACCENT_SENTENCES]
            save(path, [neural.kokoro(sentence, voice) for sentence in own])
            print(path.name, flush=True)


def real_clips(*, unseen: bool) -> list[VoicedSentence]:
    """The demo clips of held-out readers, or of the others, with soundswallower's times."""
    aligner, found = PhoneAligner(), []
    with open(DEMO_SPEECH / "manifest.tsv", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["file"].startswith(UNSEEN_REAL) != unseen:
                continue
            words = tuple(re.sub(r"[^a-z' ]", " ", row["transcript"].lower().replace("1 ", "one ", 1)).split())
            audio, _ = soundfile.read(DEMO_SPEECH / row["file"], dtype="int16")
            timed = aligner.align(
                VoicedSentence(voice=f"real-{Path(row['file']).stem}", words=words, audio=np.asarray(audio))
            )
            if timed is None:
                raise ValueError(f"{row['file']}: soundswallower cannot align its transcript")
            found.append(timed)
    return found


def _split(utterance: VoicedSentence, seconds: float = 12.0) -> list[VoicedSentence]:
    """Cut at silences inside, so that no piece is much longer than `seconds`."""
    pieces, start = [], 0
    limit = seconds * 16_000
    silences = [phone for phone in utterance.phones if phone.word < 0 and phone.end - phone.start > 3200]
    for silence in [*silences, None]:
        middle = len(utterance.audio) if silence is None else (silence.start + silence.end) // 2
        if silence is not None and middle - start < limit * 0.6:
            continue
        inside = [phone for phone in utterance.phones if phone.start < middle and phone.end > start]
        words = sorted({phone.word for phone in inside if phone.word >= 0})
        if words:
            pieces.append(_cut(utterance, start, middle, words[0], words[-1] + 1))
        start = middle
    return pieces


def _cut(utterance: VoicedSentence, start: int, end: int, first: int, last: int) -> VoicedSentence:
    phones = tuple(
        replace(
            phone,
            start=max(phone.start, start) - start,
            end=min(phone.end, end) - start,
            word=phone.word - first if phone.word >= 0 else -1,
        )
        for phone in utterance.phones
        if phone.start < end and phone.end > start
    )
    return replace(utterance, words=utterance.words[first:last], audio=utterance.audio[start:end], phones=phones)


def _write_parts(
    source: str, name: str, sentences: list[str], speak: Callable[[str], VoicedSentence | None], num_parts: int
) -> None:
    for number in range(num_parts):
        path = root() / "corpus" / source / f"{name}-{number:03d}.npz"
        if path.exists():
            continue
        chunk = sentences[number * SENTENCES_PER_PART : (number + 1) * SENTENCES_PER_PART]
        made = [
            utterance for sentence in chunk if (utterance := speak(sentence)) is not None and utterance.seconds < 15
        ]
        save(path, made)
        print(f"{path.name}: {len(made)} sentences, {sum(item.seconds for item in made) / 60:.1f} minutes", flush=True)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("source", choices=["flite", "kokoro", "piper", "real", "held-out", "accents"])
    parser.add_argument("--parts", type=int, default=12, help="parts of 80 sentences (4-5 minutes) per voice")
    given = parser.parse_args(arguments)
    if given.source == "real":
        make_real(copies=4)
    elif given.source == "held-out":
        make_held_out()
    elif given.source == "accents":
        make_accents()
    else:
        {"flite": make_flite, "kokoro": make_kokoro, "piper": make_piper}[given.source](given.parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
