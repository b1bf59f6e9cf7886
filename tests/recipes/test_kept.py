"""What the recipe of the small models keeps between runs is of the shares that it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recipes.tiny_models import ctc, letters, whisper_ctc
from recipes.tiny_models.batches import Share, load_corpus
from recipes.voices.store import Phone, VoicedSentence, save

ONE = (Share(source="flite", parts=1),)
BOTH = (Share(source="flite", parts=2),)
TWICE = (Share(source="flite", parts=1, times=2),)


def put(folder: Path, number: int, word: str) -> None:
    """A part of one word of three phones."""
    phones = tuple(Phone(name=name, start=640 * n, end=640 * n + 640, word=0) for n, name in enumerate("ABC"))
    audio = np.full(1_920, number, np.int16)
    save(
        folder / f"corpus/flite/slt-{number:03d}.npz",
        [VoicedSentence(voice="slt", words=(word,), audio=audio, phones=phones)],
    )


def test_other_shares_or_parts_made_anew_do_not_get_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spelling of the shares before ended in an assertion, and the head of Whisper was trained on them without a word."""
    monkeypatch.setenv("TINY_MODELS_ROOT", str(tmp_path))
    put(tmp_path, 0, "cab")
    put(tmp_path, 1, "bac")

    def labels(shares: tuple[Share, ...]) -> str:
        material = whisper_ctc.load(whisper_ctc.prepare(shares))
        assert np.array_equal(material.audio, load_corpus(shares).audio)
        spelling = ctc.spell(load_corpus(shares), shares)
        assert len(spelling.targets) == len(material.targets)
        return "".join(letters.VOCABULARY[label] for label in spelling.labels)

    assert [labels(shares) for shares in (ONE, BOTH, TWICE, ONE)] == ["|cab", "|cab|bac", "|cab|cab", "|cab"]
    put(tmp_path, 0, "abc")
    assert labels(ONE) == "|abc"
