from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import jiwer
import numpy as np
import pytest
import torch

from pipeline.asr.base import Heard, Unusable
from pipeline.asr.whisperx import WhisperXRecogniser, model_directory
from pipeline.networks.ahead import made_ahead
from pipeline.text.tokens import tokenise
from pipeline.transcripts import TranscriptsStage, compression_ratio, find_problem
from schemas.cards import Card
from schemas.config import ConfigError
from schemas.errors import ModelError
from schemas.spec import TranscriptSpec, WhisperXSpec
from schemas.tables import Recording, Segment, Transcript, segment_id
from tests.pipeline.conftest import DemoTables

SHORT = ("sense_and_sensibility_0870.flac", "sense_and_sensibility_0930.flac")


def seconds(length: float) -> Segment:
    """A segment of some length."""
    end = int(length * 16_000)
    return Segment(
        segment_id=segment_id("0" * 16, 0, end), recording_id="0" * 16, channel=-1, start=0, end=end,
        speech_prob=0.9, cut_reason="whole",
    )  # fmt: skip


SPEC = WhisperXSpec(model="unused")


@pytest.mark.parametrize(
    "text,logprob,length,code",
    [
        ("A plain sentence that nobody minds.", -0.3, 3.0, None),
        ("", -0.3, 3.0, "empty_transcript"),
        (" ... \u266a", -0.3, 3.0, "empty_transcript"),
        ("thank you " * 30, -0.3, 29.0, "repetition"),
        ("A plain sentence that nobody minds.", -1.6, 3.0, "low_logprob"),
        ("A plain sentence that nobody minds.", None, 3.0, None),
        ("A plain sentence that nobody minds.", -0.3, 0.5, "rate_out_of_range"),
    ],
)
def test_the_filters_name_what_is_wrong(text: str, logprob: float | None, length: float, code: str | None) -> None:
    problem = find_problem(SPEC, seconds(length), Heard(text=text, language="en", avg_logprob=logprob))
    assert (problem.code if problem else None) == code
    assert problem is None or len(problem.detail.split()) > 5


def test_thresholds_are_the_specs() -> None:
    heard = Heard(text="thank you " * 30, language="en", avg_logprob=-2.0)
    assert compression_ratio(heard.text) > 2.6
    lenient = WhisperXSpec(model="unused", max_compression_ratio=1e9, min_avg_logprob=-3.0, max_words_per_second=100.0)
    assert find_problem(lenient, seconds(3.0), heard) is None


class Parrot:
    """A recogniser that says what it is told, segment by segment."""

    def __init__(self, says: Sequence[Heard | Unusable]) -> None:
        self._says = list(says)

    def card(self) -> Card:
        return Card(kind="asr", name="parrot", facts={})

    def open(self) -> None: ...

    def close(self) -> None: ...

    def transcribe(self, cuts: Sequence[object], audio: object) -> Sequence[Heard | Unusable]:
        assert len(cuts) == len(self._says)
        return self._says


def test_each_segment_is_a_transcript_or_a_reject(demo: DemoTables) -> None:
    says: list[Heard | Unusable] = [Heard(text=f"number {index}", language="en") for index in range(len(demo.segments))]
    says[2] = Heard(text="", language="en")
    says[5] = Unusable(code="align_failed", detail="told so")
    stage = TranscriptsStage(SPEC, Parrot(says))
    stage.open()
    result = stage.run({"segments": demo.segments, "recordings": demo.recordings}, demo.audio)
    kept = [row for row in result.rows if isinstance(row, Transcript)]
    ids = [row.segment_id for row in demo.segments]
    assert [row.segment_id for row in kept] == [name for index, name in enumerate(ids) if index not in (2, 5)]
    assert [row.text for row in kept] == [f"number {index}" for index in range(len(ids)) if index not in (2, 5)]
    assert [(reject.id, reject.code) for reject in result.rejects] == [
        (ids[2], "empty_transcript"),
        (ids[5], "align_failed"),
    ]
    assert {row.asr for row in kept} == {stage.cards()[0].card_id}


def test_given_text_stays_with_recordings_of_one_segment(demo: DemoTables) -> None:
    stage = TranscriptsStage(TranscriptSpec())
    stage.open()
    result = stage.run({"segments": demo.segments, "recordings": demo.recordings}, demo.audio)
    whole = {row.segment_id: row.recording_id for row in demo.segments if row.cut_reason == "whole"}
    texts = {row.recording_id: row.transcript for row in demo.recordings}
    kept = {row.segment_id: row.text for row in result.rows if isinstance(row, Transcript)}
    assert kept == {segment: texts[recording] for segment, recording in whole.items()}
    assert len(kept) == 6
    assert {reject.code for reject in result.rejects} == {"align_failed"}
    assert {reject.id for reject in result.rejects} == {row.segment_id for row in demo.segments} - set(whole)
    assert all("segments.backend be given" in reject.detail for reject in result.rejects)


def test_a_recording_without_text_is_an_empty_transcript(demo: DemoTables) -> None:
    silent = [row.with_updates(transcript=None) for row in demo.recordings]
    result = TranscriptsStage(TranscriptSpec()).run({"segments": demo.segments, "recordings": silent}, demo.audio)
    assert {reject.code for reject in result.rejects} == {"empty_transcript"}
    assert not result.rows


def test_a_text_with_a_control_character_is_a_reject(demo: DemoTables) -> None:
    """NUL and the like: no model reads them, and the label beside a training sample would carry them on."""
    steered = [row.with_updates(transcript=f"{row.transcript}\0\n") for row in demo.recordings]
    result = TranscriptsStage(TranscriptSpec()).run({"segments": demo.segments, "recordings": steered}, demo.audio)
    assert not result.rows
    said = [reject.detail for reject in result.rejects if reject.code == "bad_row"]
    assert len(said) == 6
    assert all("the control character U+0000" in detail for detail in said)


def test_given_text_has_the_manifests_language(demo: DemoTables) -> None:
    german = [row.with_updates(language_hint="de") for row in demo.recordings]
    stage = TranscriptsStage(TranscriptSpec(language="fr"))
    for recordings, language in ((german, "de"), (demo.recordings, "fr")):
        rows = stage.run({"segments": demo.segments, "recordings": recordings}, demo.audio).rows
        assert {row.language for row in rows if isinstance(row, Transcript)} == {language}


def test_a_missing_model_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no directory.*jobs\.fetch_models"):
        TranscriptsStage(WhisperXSpec(model=str(tmp_path / "nowhere"))).cards()
    with pytest.raises(ModelError, match=r"in this machine's cache.*jobs\.fetch_models"):
        model_directory("somebody/no-such-model")


@pytest.mark.parametrize("name", ["Systran/faster-whisper-small.en", "small.en"])
def test_a_hub_name_is_found_in_this_machines_cache(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--Systran--faster-whisper-small.en"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    for file in ("model.bin", "config.json", "tokenizer.json"):
        (snapshot / file).write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert model_directory(name) == snapshot


def test_an_incomplete_model_names_the_missing_file(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"lacks tokenizer\.json"):
        model_directory(str(tmp_path))


def test_the_card_is_the_models_files_not_its_place(whisper_tiny: str, tmp_path: Path) -> None:
    moved = tmp_path / "whisper-tiny.en"
    moved.symlink_to(whisper_tiny)
    (card,) = TranscriptsStage(WhisperXSpec(model=whisper_tiny)).cards()
    assert TranscriptsStage(WhisperXSpec(model=str(moved))).cards() == [card]
    changed = tmp_path / "changed" / "whisper-tiny.en"
    changed.mkdir(parents=True)
    for file in Path(whisper_tiny).iterdir():
        (changed / file.name).symlink_to(file)
    (changed / "vocabulary.txt").unlink()
    (changed / "vocabulary.txt").write_text("other")
    assert TranscriptsStage(WhisperXSpec(model=str(changed))).cards()[0].card_id != card.card_id


@pytest.fixture(scope="module")
def whisperx_stage(whisper_tiny: str) -> Iterator[TranscriptsStage]:
    stage = TranscriptsStage(WhisperXSpec(model=whisper_tiny, language="en", beam_size=2))
    stage.open()
    yield stage
    stage.close()


def transcribe(stage: TranscriptsStage, demo: DemoTables, names: Sequence[str]) -> list[Transcript]:
    segments = [row for row in demo.segments if row.segment_id in {demo.segment_of(name).segment_id for name in names}]
    result = stage.run({"segments": segments, "recordings": demo.recordings}, demo.audio)
    assert not result.rejects
    return [row for row in result.rows if isinstance(row, Transcript)]


def test_whisperx_hears_what_was_said(demo: DemoTables, whisperx_stage: TranscriptsStage) -> None:
    texts = {demo.segment_of(row.uri).segment_id: row.transcript or "" for row in demo.recordings if row.uri in SHORT}
    rows = transcribe(whisperx_stage, demo, SHORT)
    assert {row.segment_id for row in rows} == set(texts)
    for row in rows:
        said, heard = (
            " ".join(word for token in tokenise(text) for word in token.spoken)
            for text in (texts[row.segment_id], row.text)
        )
        assert jiwer.wer(said.replace("mister", "mr"), heard) < 0.2
        assert row.language == "en"
        assert row.avg_logprob is not None
        assert -1.0 < row.avg_logprob < 0.0
        assert row.text == row.text.strip()


def test_a_transcript_does_not_depend_on_its_neighbours(demo: DemoTables, whisperx_stage: TranscriptsStage) -> None:
    """Bit for bit: text and log-probability alone are those in company, so partitions can be split."""
    together = transcribe(whisperx_stage, demo, SHORT)
    alone = [row for name in reversed(SHORT) for row in transcribe(whisperx_stage, demo, [name])]
    assert sorted(alone, key=lambda row: row.segment_id) == sorted(together, key=lambda row: row.segment_id)


def test_a_batch_gives_the_texts_of_its_members(
    demo: DemoTables, whisperx_stage: TranscriptsStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU worker does: several segments in one call of WhisperX."""
    recogniser = whisperx_stage._recogniser
    assert isinstance(recogniser, WhisperXRecogniser)
    members = [demo.segment_of(name) for name in SHORT]
    recordings = {row.recording_id: row for row in demo.recordings}
    audio = [demo.audio.read(recordings[row.recording_id])[row.start : row.end].copy() for row in members]
    features = [recogniser._features(samples) for samples in audio]
    batched = recogniser._transcribe_batch(features, [None] * len(features))
    singly = [heard for mel in features for heard in recogniser._transcribe_batch([mel], [None])]
    assert [heard.text for heard in batched] == [heard.text for heard in singly]
    np.testing.assert_allclose(
        [heard.avg_logprob or 0 for heard in batched], [heard.avg_logprob or 0 for heard in singly], atol=2e-4
    )


class CountingWhisper:
    """Stands where a model on a GPU would: says which rows came together. Features are the rows' own numbers."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.model = SimpleNamespace(is_multilingual=True)
        self.hf_tokenizer = SimpleNamespace(token_to_id=lambda token: 1)

    def generate_segment_batched(
        self, batch: torch.Tensor, tokenizer: object, options: object
    ) -> dict[str, list[object]]:
        self.calls.append(batch.tolist())
        return {"text": [f"row {row}" for row in batch.tolist()], "avg_logprob": [-0.5] * len(batch)}


def test_a_gpu_gets_full_batches_across_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 ten-second files: more than 14 of 16 rows a call, each row's text its own, languages apart."""
    recogniser = WhisperXRecogniser(WhisperXSpec(model="unused", batch_size=16))
    whisper = CountingWhisper()
    recogniser._pipeline, recogniser._batch_size = SimpleNamespace(model=whisper, options=None), 16
    monkeypatch.setattr(recogniser, "_features", lambda samples: torch.tensor(int(samples[0])))
    monkeypatch.setattr(recogniser, "_tokenizer", lambda language: language)
    cuts = [
        (
            Recording(
                recording_id=f"{number:016d}", uri=f"{number}.wav", source="t", bytes=0, sha256="0" * 64, codec="",
                sample_rate=16_000, channels=1, num_samples=160_000, num_samples_16k=160_000,
                language_hint="de" if number < 100 else "en",
            ),
            Segment(
                segment_id=f"{number:016d}-0-160000", recording_id=f"{number:016d}", channel=-1, start=0, end=160_000,
                speech_prob=1.0, cut_reason="whole",
            ),
        )
        for number in range(1000)
    ]  # fmt: skip
    audio = SimpleNamespace(read=lambda recording, channel: np.full(160_000, int(recording.recording_id), np.float32))
    heard = recogniser.transcribe(cuts, audio)
    assert [item.text for item in heard if isinstance(item, Heard)] == [f"row {number}" for number in range(1000)]
    assert [item.language for item in heard if isinstance(item, Heard)] == ["de"] * 100 + ["en"] * 900
    assert 1000 / len(whisper.calls) >= 14


def test_the_next_batch_is_made_while_one_is_heard() -> None:
    """The second is made while the first is at the consumer's, and never further than one ahead."""
    made: list[int] = []
    ready = [threading.Event() for _ in range(4)]

    def make(item: int) -> int:
        made.append(item)
        ready[item].set()
        return 10 * item

    results = []
    for position, result in enumerate(made_ahead(make, range(4), ahead=True)):
        if position < 3:
            assert ready[position + 1].wait(10), "nothing is made while the consumer works"
        assert len(made) <= position + 2
        results.append(result)
    assert results == [0, 10, 20, 30]
    assert list(made_ahead(make, [1, 2], ahead=False)) == [10, 20]


@pytest.mark.slow
def test_a_multilingual_model_detects_the_language_unless_it_is_told(demo: DemoTables) -> None:
    folder = Path(__file__).parents[2] / "models" / "whisper-base"
    if not (folder / "model.bin").is_file():
        pytest.skip("models/whisper-base is missing: run `python jobs/fetch_models.py whisper-base`")
    stage = TranscriptsStage(WhisperXSpec(model=str(folder), beam_size=1, min_avg_logprob=-20.0))
    stage.open()
    (detected,) = transcribe(stage, demo, SHORT[1:])
    assert (detected.language, detected.text.split()[0].lower()) == ("en", "he")
    assert detected.language_prob is not None
    assert detected.language_prob > 0.8
    german = [row.with_updates(language_hint="de") for row in demo.recordings]
    segment = demo.segment_of(SHORT[1])
    (told,) = stage.run({"segments": [segment], "recordings": german}, demo.audio).rows
    assert isinstance(told, Transcript)
    assert (told.language, told.language_prob) == ("de", None)


def test_an_english_model_refuses_another_language(whisper_tiny: str) -> None:
    with pytest.raises(ConfigError, match="does not know"):
        TranscriptsStage(WhisperXSpec(model=whisper_tiny, language="fr")).open()
