"""Parakeet-CTC on a tiny random model of transformers' own class: batches are singles, texts and words are the path's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.align.ctc import CtcAligner, align_emissions
from pipeline.align.parakeet import PieceAlphabet
from pipeline.asr.base import Heard
from pipeline.asr.parakeet import ParakeetRecogniser
from pipeline.networks.parakeet import ParakeetModel
from pipeline.networks.resolver import models_of
from pipeline.text.tokens import tokenise
from pipeline.words import WordsStage
from schemas.config import ConfigError, parse_config
from schemas.errors import ModelError
from schemas.spec import CtcSpec, ParakeetSpec, PipelineSpec
from schemas.tables import Recording, Segment, Transcript, Word
from tests.pipeline.asr.tiny_parakeet import BLANK, PIECES, tiny_tokenizer, write_parakeet
from tests.pipeline.conftest import DemoTables

HOP = 1280


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parakeet(tmp_path_factory.mktemp("parakeet"))


@pytest.fixture(scope="module")
def model(folder: Path) -> ParakeetModel:
    model = ParakeetModel(str(folder), "transcripts.model", "cpu")
    model.open()
    return model


@given(lengths=st.lists(st.integers(0, 40_000), min_size=1, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_batch_is_its_sounds_one_by_one(model: ParakeetModel, lengths: list[int], seed: int) -> None:
    """Padding and the company of longer sounds change nothing but rounding: up to 7e-4 was seen, and 5 without the mask."""
    random = np.random.default_rng(seed)
    waves = [random.normal(scale=0.1, size=length).astype(np.float32) for length in lengths]
    for wave, together in zip(waves, model.log_probs(waves), strict=True):
        (alone,) = model.log_probs([wave])
        assert together.shape == (-(-(len(wave) // 160) // 8) if len(wave) >= 320 else 0, BLANK + 1)
        np.testing.assert_allclose(together, alone, rtol=1e-3, atol=2e-3)


def emissions_of(frames: list[int]) -> np.ndarray:
    probabilities = np.full((len(frames), BLANK + 1), 1e-4, np.float32)
    probabilities[np.arange(len(frames)), frames] = 0.9
    return np.log(probabilities / probabilities.sum(axis=1, keepdims=True))


def test_the_text_is_the_greedy_path_without_repeats_and_blanks(folder: Path) -> None:
    recogniser = ParakeetRecogniser(ParakeetSpec(model=str(folder)))
    recogniser.open()
    frames = ["\u2581the", "\u2581the", None, "\u2581", "s", "s", None, "s", "er", None]
    path = emissions_of([BLANK if piece is None else PIECES.index(piece) for piece in frames])
    heard = recogniser._decode(path)
    assert (heard.text, heard.language) == ("the sser", "en")
    assert heard.avg_logprob == pytest.approx(float(path.max()), abs=1e-3)
    assert recogniser._decode(emissions_of([BLANK] * 3)) == Heard(text="", language="en")
    assert recogniser._decode(emissions_of([BLANK] * 3)[:0]) == Heard(text="", language="en")


def test_segments_are_heard_alike_whatever_the_batch(folder: Path, demo: DemoTables) -> None:
    recogniser = ParakeetRecogniser(ParakeetSpec(model=str(folder)))
    recogniser.open()
    recordings = {row.recording_id: row for row in demo.recordings}
    cuts: list[tuple[Recording, Segment]] = [(recordings[row.recording_id], row) for row in demo.segments][:6]
    alone = list(recogniser.transcribe(cuts, demo.audio))
    recogniser._batch_size = 4
    assert list(recogniser.transcribe(cuts, demo.audio)) == alone
    assert len({heard.avg_logprob for heard in alone if isinstance(heard, Heard)}) > 1


def pieces() -> PieceAlphabet:
    tokenizer = tiny_tokenizer()
    return PieceAlphabet(
        labels=(*PIECES, ""),
        blank=BLANK,
        delimiter=None,
        unknown=0,
        encode=lambda word: list(tokenizer.encode(word, add_special_tokens=False).ids),
    )


def test_words_are_cut_into_the_models_own_pieces() -> None:
    alphabet = pieces()
    named = [[PIECES[column] for column in alphabet.columns(word)] for word in ("there", "sing", "The")]
    assert named == [["\u2581the", "r", "e"], ["\u2581s", "ing"], ["\u2581the"]]
    assert alphabet.columns("\u00e9\u00e9") == [alphabet.star]
    assert sum(alphabet.width(column) for column in alphabet.columns("singers")) == len("singers")


def test_oracle_pieces_give_words_and_characters_their_times() -> None:
    alphabet = pieces()
    words = tokenise("The singer, \u4e2d there")
    frames = [BLANK] * 30
    places = {"the": 4, "singer": 8, "there": 20}
    for word, place in places.items():
        for offset, column in enumerate(alphabet.columns(word)):
            frames[place + 2 * offset] = column
    audio = np.random.default_rng(0).normal(scale=1e-4, size=30 * HOP).astype(np.float32)
    found = align_emissions(emissions_of(frames), alphabet, HOP, audio, words).timings
    for token, timing in zip(words, found, strict=True):
        assert timing is not None
        if token.text.lower() in places:
            assert abs(timing.start - places[token.text.lower()] * HOP) <= HOP
            assert len(timing.char_times) == len(token.text)
            assert list(timing.char_times) == sorted(timing.char_times)
            assert timing.char_times[-1] < timing.end
    assert [timing.timing for timing in found if timing is not None] == ["aligned", "aligned", "star", "aligned"]


def test_the_stage_runs_on_real_speech_and_every_word_is_in_bounds(folder: Path, demo: DemoTables) -> None:
    spec = CtcSpec(format="parakeet", model=str(folder), min_score=0, min_word_score=0, max_uncovered=1, min_coverage=0)
    aligner = CtcAligner(spec)
    assert aligner.card().name.startswith("ctc-parakeet")
    stage = WordsStage(spec, aligner)
    stage.open()
    segments = {row.segment_id: row for row in demo.segments}
    transcripts = [
        Transcript(segment_id=key, text="one two three", language="en", asr="t") for key in list(segments)[:3]
    ]
    result = stage.run(
        {"transcripts": transcripts, "segments": demo.segments, "recordings": demo.recordings}, demo.audio
    )
    words = [row for row in result.rows if isinstance(row, Word)]
    assert len(words) == 9
    for word in words:
        assert 0 <= word.start < word.end <= segments[word.segment_id].end - segments[word.segment_id].start


def test_what_is_no_parakeet_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    def opened(place: Path) -> None:
        model = ParakeetModel(str(place), "transcripts.model", "cpu")
        model.files()
        model.open()

    with pytest.raises(ModelError, match=r"transcripts.model: there is no directory"):
        opened(tmp_path / "none")
    for name in ("kind", "tokenizer", "weights"):
        shutil.copytree(folder, tmp_path / name)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "kind/config.json").write_text(json.dumps(config | {"model_type": "wav2vec2"}))
    with pytest.raises(ConfigError, match="'wav2vec2' model; a ParakeetForCTC"):
        opened(tmp_path / "kind")
    (tmp_path / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer.json"):
        opened(tmp_path / "tokenizer")
    (tmp_path / "weights/model.safetensors").write_bytes(b"short")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        opened(tmp_path / "weights")


def test_the_resolver_knows_every_model_of_these_backends() -> None:
    spec = parse_config(
        PipelineSpec,
        {
            "source": {"uri": "x", "name": "x"},
            "output": "y",
            "stages": {
                "transcripts": {"backend": "parakeet", "model": "nvidia/parakeet-ctc-1.1b"},
                "words": {"backend": "qwen3", "model": "Qwen/aligner"},
                "units": {"encoder": {"backend": "mfcc"}, "centroids": "c"},
            },
            "kmeans": {"num_units": 16, "seed": 0},
        },
        "test",
    )
    named = [(wanted.field, wanted.form, wanted.name) for wanted in models_of(spec)]
    assert named[:2] == [
        ("transcripts.model", "hf", "nvidia/parakeet-ctc-1.1b"),
        ("words.model", "hf", "Qwen/aligner"),
    ]
