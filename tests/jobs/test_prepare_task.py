"""A task's audio becomes what the same audio becomes in training shards, and nothing of a task is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import jobs.prepare_task as prepare
from jobs.runtime.drive import prepare as before_work
from jobs.runtime.drive import run_in_process
from jobs.runtime.plan import make_plan, refresh
from jobs.runtime.shard_index import write_index
from jobs.runtime.stages import unit_tokenizer
from jobs.runtime.worker import StageWorker
from schemas.config import parse_config
from schemas.spec import STAGES, PipelineSpec
from schemas.tasks import TaskHeader, TaskItem, TaskSegment, read_task, write_task
from tests.jobs.small_corpus import DEMO, document, make_centroids, make_corpus, write_spec
from tests.jobs.small_corpus import FILES as RECORDINGS

NAMES = RECORDINGS[:2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings, two copies of one, a broken file, a silent one; a task over them; the spec of the training data."""
    folder = tmp_path_factory.mktemp("task")
    audio = make_corpus(folder / "task" / "audio", NAMES)
    (audio / "copy.flac").write_bytes((audio / NAMES[0]).read_bytes())
    (audio / "other.flac").write_bytes((audio / NAMES[0]).read_bytes())
    (audio / "broken.flac").write_bytes((audio / NAMES[0]).read_bytes()[:5000])
    for name in ("silent", "silent too", "silent three"):
        soundfile.write(audio / f"{name}.wav", np.zeros(16_000), 16_000)
    texts = dict(line.split("\t")[:2] for line in (audio / "manifest.tsv").read_text("utf-8").splitlines()[1:])
    columns = (DEMO / "manifest.tsv").read_text("utf-8").splitlines()[0].split("\t")
    assert columns[0] == "file"
    spoken = {name: TaskSegment(text=text_of(audio, name), audio=f"audio/{name}") for name in texts}
    first, second = (spoken[name] for name in NAMES)
    copy = TaskSegment(text=first.text, audio="audio/copy.flac")
    other = TaskSegment(text="something else", audio="audio/other.flac")
    items = [
        TaskItem(id="good", group="g", prompt=first, endings=[second, copy, other], answer=1),
        TaskItem(id="text", group="g", prompt=TaskSegment(text=""), endings=[TaskSegment(text=t) for t in "ab"], answer=0),
        TaskItem(
            id="bad", group="g", prompt=TaskSegment(text="quiet", audio="audio/silent.wav"),
            endings=[TaskSegment(text="cut", audio="audio/broken.flac"), second], answer=0,
        ),
        TaskItem(
            id="mute", group="g", prompt=TaskSegment(text=""), answer=0,
            endings=[TaskSegment(text="x", audio=f"audio/silent {name}.wav") for name in ("too", "three")],
        ),
    ]  # fmt: skip
    write_task(folder / "task" / "task.jsonl", TaskHeader(task="t"), items)
    make_centroids(folder / "centroids")
    training = document(
        audio, folder / "training", folder / "centroids", max_reject_rate=0.5, partitions={"minutes": 10}
    )
    write_spec(folder / "spec.yaml", training)
    return folder


def text_of(audio: Path, name: str) -> str:
    rows = [line.split("\t") for line in (audio / "manifest.tsv").read_text("utf-8").splitlines()]
    return next(row[rows[0].index("transcript")] for row in rows[1:] if row[0] == name)


def run(folder: Path, *arguments: str) -> int:
    task, out = str(folder / "task" / "task.jsonl"), str(folder / "task" / "out.jsonl")
    return prepare.main(["--config", str(folder / "spec.yaml"), task, out, *arguments])


def _until(stage: str, work: Callable[[StageWorker, str], None], worker: StageWorker, part: str) -> None:
    if worker.plan.name == stage:
        raise KeyboardInterrupt
    work(worker, part)


def test_a_task_becomes_what_training_data_becomes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as interrupted:
        work = StageWorker.work
        interrupted.setattr(StageWorker, "work", lambda self, part: _until("words", work, self, part))
        assert run(folder) == 75
    assert not (folder / "task" / "out.jsonl").exists()
    with monkeypatch.context() as resumed:
        stages: list[str] = []
        resumed.setattr(StageWorker, "work", lambda self, part: (stages.append(self.plan.name), work(self, part)))
        assert run(folder) == 0
    assert stages == ["words", "units", "patches"], "what was committed before the interruption is not done again"
    written = (folder / "task" / "out.jsonl").read_bytes()
    task = read_task(folder / "task" / "out.jsonl")
    good, text, bad, mute = task.items
    assert [ending.units for ending in mute.endings] == [None, None]

    spec = parse_config(PipelineSpec, json.loads(json.dumps(document(
        folder / "task" / "audio", folder / "training", folder / "centroids", partitions={"minutes": 10}))), "test")  # fmt: skip
    spec = spec.with_updates(source={**spec.source.model_dump(), "pattern": "sense*"})
    plan = make_plan(spec)
    before_work(plan)
    run_in_process(plan, STAGES)
    refresh(plan)
    index = write_index(plan)
    assert task.header.cards == index.cards
    assert (task.header.num_units, task.header.hop) == (index.num_units, unit_tokenizer(spec)["hop"])
    units = {row.segment_id: row for row in prepare._rows(plan, prepare.Units)}
    order = sorted(prepare._rows(plan, prepare.Segment), key=lambda s: (s.recording_id, s.start))
    uris = {row.recording_id: row.uri for row in prepare._rows(plan, prepare.Recording)}
    for name, segment in zip(NAMES, (good.prompt, good.endings[0]), strict=True):
        expected = [unit for s in order if uris[s.recording_id] == name for unit in units[s.segment_id].units]
        assert segment.units == expected
        patches = {row.segment_id: row.word_frames for row in prepare._rows(plan, prepare.Patches)}
        (key,) = (s.segment_id for s in order if uris[s.recording_id] == name)
        assert [edge for _, *span in segment.words or [] for edge in span] == patches[key]
    assert good.endings[1].units == good.prompt.units, "a copy of a file is what the file is"
    assert good.endings[1].words == good.prompt.words
    assert (good.endings[2].units, good.endings[2].words) == (good.prompt.units, None), "its text says other words"

    assert text.prompt.is_empty
    assert bad.prompt.units is None
    assert bad.endings[0].units is None
    assert bad.endings[1].units == good.endings[0].units
    rejects = [json.loads(line) for line in (folder / "task" / "out.jsonl.rejects.jsonl").read_text().splitlines()]
    assert {(row["audio"], row["code"], tuple(row["items"])) for row in rejects} == {
        ("audio/other.flac", "duplicate", ("good",)),
        ("audio/broken.flac", "decode_error", ("bad",)),
        ("audio/silent.wav", "no_speech", ("bad",)),
        ("audio/silent too.wav", "no_speech", ("mute",)),
        ("audio/silent three.wav", "no_speech", ("mute",)),
    }
    assert "broken.flac" in capsys.readouterr().out

    monkeypatch.setattr(StageWorker, "work", lambda *_: pytest.fail("work that was committed is done again"))
    assert run(folder) == 0
    assert (folder / "task" / "out.jsonl").read_bytes() == written
    assert run(folder, "max_reject_rate=0.1") == 4


def test_segments_of_a_file_follow_each_other_and_one_without_words_takes_them_all() -> None:
    members = [SimpleNamespace(segment_id="a"), SimpleNamespace(segment_id="b")]
    units = {"a": SimpleNamespace(units=[1, 2, 3]), "b": SimpleNamespace(units=[4, 5])}
    words = {
        "a": [SimpleNamespace(text="two", word_index=1), SimpleNamespace(text="one", word_index=0)],
        "b": [SimpleNamespace(text="three", word_index=0)],
    }
    patches = {"a": SimpleNamespace(word_frames=[0, 1, 1, 2]), "b": SimpleNamespace(word_frames=[1, 2])}
    joined = prepare._join(members, units, words, patches)  # type: ignore[arg-type]
    assert joined == prepare.PreparedSpeech(
        units=[1, 2, 3, 4, 5], words=[("one", 0, 1), ("two", 1, 2), ("three", 4, 5)]
    )
    assert prepare._join(members, units, words, {"b": patches["b"]}).words is None  # type: ignore[arg-type]


def test_what_cannot_be_prepared_is_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(prompt: dict[str, str], ending: dict[str, str], message: str, out: str = "out.jsonl") -> None:
        item = TaskItem.model_validate(
            {"id": "i", "group": "g", "prompt": prompt, "endings": [ending, {"text": "x"}], "answer": 0}
        )
        write_task(tmp_path / "task.jsonl", TaskHeader(task="t"), [item])
        words = ["--config", str(folder / "spec.yaml"), str(tmp_path / "task.jsonl"), str(tmp_path / out)]
        assert prepare.main(words) == 2
        assert re.search(message, capsys.readouterr().err)

    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16_000)
    fails({"text": "a"}, {"text": "b"}, "names no audio")
    fails({"text": "a", "audio": "none.wav"}, {"text": "b"}, r"1 audio files are missing: none.wav \(item i\)")
    fails({"text": "a", "audio": "a.wav"}, {"text": "b", "audio": "a.wav"}, "given two texts")
    fails({"text": "a", "audio": "a.wav"}, {"text": "b"}, "beside", out="below/out.jsonl")
