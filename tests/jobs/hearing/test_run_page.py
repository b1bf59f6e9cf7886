"""The page of a training run: safe against what prompts hold, sounds and a script that the page's own policy allows."""

import base64
import hashlib
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from jobs.hearing import report
from jobs.hearing.curves import POINTS, curve_of
from jobs.hearing.listening import DemoPrompt, Said, SpeakingModel, patches_of
from jobs.hearing.progress_page import spread
from jobs.hearing.run_page import PromptAnswers, RunFacts, render_run
from model.data.patching import AlignedConfig, DynamicConfig, StaticConfig
from model.evaluation.records import (
    Evaluation,
    SampleSaid,
    TaskAccuracy,
    evaluations,
    folder_of_step,
    write_evaluation,
)
from model.inference import placement
from model.inference.continuation import Generator
from model.inference.expectation import speech_expectation
from model.training.config import EvaluationConfig, VoiceConfig
from model.voice.mean_spectrum import MeanSpectrum
from model.voice.options import add_speaking_arguments
from model.voice.unit_selection import UnitSelection
from model.voice.vocoder import Vocoder
from schemas.commands.cli import Parser

ROWS = [{"step": step, "loss_text": 9.0 / step, "loss_speech": 4.0 / step} for step in range(1, 4)]


def page(text: str = "hello") -> str:
    units = np.arange(12, dtype=np.uint16)
    sound = np.sin(np.arange(12 * 640, dtype=np.float32) / 9)
    prompt = DemoPrompt(name="a", text=text, units=units[:6], audio=sound[: 6 * 640], words=((text, 1, 5),))
    said = Said(
        label=text,
        to_speech=True,
        text="",
        units=units,
        prompt_frames=6,
        audio=sound,
        patches=((0, 12, 0),),
        ended=False,
    )
    written = Said(
        label="b", to_speech=False, text=text, units=units[:0], prompt_frames=6, audio=None, patches=(), ended=True
    )
    run = RunFacts(label="run", facts=(("1", "one"),), rows=ROWS, expectation="Expect babble.")
    return render_run("t", [run], [PromptAnswers(prompt=prompt, said=[said, written])], 640, ["#000000"] * 12, "cmd")


def test_what_came_from_outside_is_escaped() -> None:
    html = page("<script>alert(1)</script>&")
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html


def test_the_policy_allows_the_one_script_and_nothing_from_elsewhere() -> None:
    html = page()
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert f"sha256-{digest}" in policy
    assert "default-src &#x27;none&#x27;" in policy
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert html.count('<audio controls preload="metadata" src="data:audio/mpeg;base64,') == 2


def test_the_page_says_who_speaks() -> None:
    """It said "joined from recordings" of a vocoder, and of models of text alone."""

    def told(*kinds: type) -> str:
        return report.voices_of([SimpleNamespace(synthesise=kind.__new__(kind)) for kind in kinds])  # type: ignore[misc]

    assert told(Vocoder) == "Answers in speech are a vocoder's."
    assert (
        told(MeanSpectrum, UnitSelection)
        == "Answers in speech are joined from recordings or made of mean spectra of units."
    )
    assert told(object) == ""
    assert "joined" not in page()


def test_a_long_curve_is_averaged_and_a_missing_one_is_none() -> None:
    rows = [{"step": step, "loss": float(step)} for step in range(1, 1001)]
    curve = curve_of(rows, "loss", "a", "b")
    assert curve is not None
    assert len(curve.values) == POINTS
    assert (np.diff(curve.values) > 0).all()
    assert np.allclose(curve.values, curve.steps)
    assert curve_of(rows, "other", "a", "b") is None


def test_patches_tile_the_units_as_generation_cuts_them() -> None:
    units = np.array([1, 1, 2, 2, 2, 3, 4, 4, 4, 4, 4], dtype=np.uint16)
    static = patches_of(StaticConfig(policy="static", size=4), units)
    assert [(start, end) for start, end, _ in static] == [(0, 4), (4, 8), (8, 11)]
    dynamic = patches_of(DynamicConfig(policy="dynamic", rule="novelty", min_size=2, max_size=4), units)
    assert dynamic[0][0] == 0
    assert dynamic[-1][1] == len(units)
    assert all(before[1] == after[0] for before, after in pairwise(dynamic))
    assert patches_of(AlignedConfig(policy="aligned", silence="separate", max_size=9), units) == ()


@pytest.mark.parametrize(
    ("held", "trained", "verdict", "heart"),
    [
        (0.95, 0.9, "babble", False),
        (0.9, 0.2, "babble", True),
        (0.6, 0.5, "pieces of words", False),
        (0.3, 0.28, "Expect words", False),
    ],
)
def test_what_is_expected_follows_the_losses(held: float, trained: float, verdict: str, heart: bool) -> None:
    guess = math.log(100)
    rows = [{"validation_loss_speech": held * guess, "loss_speech": trained * guess}]
    sentence = speech_expectation(rows, 100)
    assert sentence is not None
    assert verdict in sentence
    assert ("by heart" in sentence) == heart


def test_nothing_is_expected_of_what_was_not_measured() -> None:
    assert speech_expectation([], 100) is None
    assert speech_expectation([{"loss_speech": 1.0}], 100) is None


def test_evaluations_become_curves_tables_and_sounds(tmp_path: Path) -> None:
    """Tasks with their intervals, prompts with a player per step, a sound that is gone as a note; all of it escaped."""
    for step in (5, 10):
        score = {"task": "a<b", "direction": "S->T", "low": 0.25, "high": 0.75, "items": 8}
        accuracies = [TaskAccuracy(**score, normalisation=name, value=step / 20) for name in ("sum", "token")]
        said = [
            SampleSaid(prompt="the <of>", in_speech=f"said-{i}.flac", prompt_seconds=1.0, in_text=f"at {step} & {i}")
            for i in range(2)
        ]
        write_evaluation(tmp_path, Evaluation(step=step, accuracies=accuracies, samples=said, seconds=1.0))
        soundfile.write(folder_of_step(tmp_path, step) / "said-0.flac", np.zeros(1600, np.float32), 16_000)
    rows = [{**row, "source_asr_loss_text": 2.0, "grad_norm": 1.0} for row in ROWS]
    run = RunFacts(label="run", facts=(), rows=rows, expectation=None, evaluations=evaluations(tmp_path))
    html = render_run("t", [run], [], 640, ["#000000"], "cmd")
    assert "<td>a&lt;b S-&gt;T</td><td>8</td><td>25.0 <small>[25.0, 75.0]</small></td><td>50.0" in html
    assert html.count("<audio") == 2
    assert html.count("the sound is gone") == 2
    assert "at 10 &amp; 1" in html
    assert "Source asr, text" in html
    assert "<of>" not in html
    assert spread(list(range(1, 101)), 6) == [1, 21, 41, 60, 80, 100]


@pytest.mark.parametrize("asked, voice", [([], "recordings"), (["--audio-root", "elsewhere"], "elsewhere")])
def test_a_run_speaks_by_its_evaluations_voice_unless_another_is_asked_for(
    asked: list[str], voice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that `lst report RUN` needs no option where training needed none."""
    evaluation = EvaluationConfig(every_steps=1, voice=VoiceConfig(audio_root="recordings"))
    trained = SimpleNamespace(config=SimpleNamespace(evaluation=evaluation), units=object())
    monkeypatch.setattr(placement, "open_trained", lambda *_: trained)
    monkeypatch.setattr(report, "open_synthesiser", lambda given, _: given.audio_root)
    monkeypatch.setattr(Generator, "of", lambda _: None)
    parser = Parser("")
    add_speaking_arguments(parser)
    given = parser.parse_args(asked)
    given.device = given.dtype = "auto"
    synthesise: Any = report.open_speaker(given, "run").synthesise
    assert synthesise == voice


def test_a_step_that_was_left_out_takes_no_curve_away() -> None:
    """`non_finite: skip` leaves rows whose losses are no numbers."""
    rows = [*ROWS, {"step": 4, "loss_text": math.nan, "loss_speech": math.inf}]
    curve = curve_of(rows, "loss_text", "a", "b")
    assert curve is not None
    assert curve.steps.tolist() == [1, 2, 3]
    assert curve_of(rows[3:], "loss_text", "a", "b") is None
    sentence = speech_expectation([{"validation_loss_speech": 1.0, "loss_speech": 1.0}, {"loss_speech": math.nan}], 100)
    assert sentence is not None
    assert "nan" not in sentence


def test_of_a_model_that_diverged_no_words_are_expected() -> None:
    sentence = speech_expectation([{"validation_loss_speech": math.nan, "loss_speech": 1.0}], 100)
    assert sentence is not None
    assert "Expect words" not in sentence
    assert "diverged" in sentence


def test_a_task_of_steps_that_are_not_shown_takes_no_page_away(tmp_path: Path) -> None:
    """It was taken out of the configuration again after a few evaluations."""
    score = {"direction": "S->S", "normalisation": "sum", "value": 0.5, "low": 0.25, "high": 0.75, "items": 8}
    for step in range(1, 31):
        tasks = ["kept", "dropped"] if step == 2 else ["kept"]
        accuracies = [TaskAccuracy(task=task, **score) for task in tasks]
        write_evaluation(tmp_path, Evaluation(step=step, accuracies=accuracies, samples=[], seconds=1.0))
    run = RunFacts(label="run", facts=(), rows=ROWS, expectation=None, evaluations=evaluations(tmp_path))
    assert "<td>dropped S-&gt;S</td><td>8</td>" in render_run("t", [run], [], 640, ["#000000"], "cmd")


def test_runs_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `a/seed-1` and `b/seed-1` both were `seed-1`, and nobody could say which of them spoke."""
    nothing: Any = SimpleNamespace()
    speaker = SpeakingModel(label="", trained=nothing, generator=nothing, synthesise=None)
    monkeypatch.setattr(report, "open_speaker", lambda _, run: replace(speaker, label=Path(run).name))
    monkeypatch.setattr(
        report, "run_facts", lambda run, _: RunFacts(label=Path(run).name, facts=(), rows=ROWS, expectation=None)
    )
    monkeypatch.setattr(report, "speech_index", lambda _: None)
    labels: list[str] = []

    def answered(speakers: list[SpeakingModel], facts: list[RunFacts], *_: Any, **__: Any) -> str:
        labels.extend([*(one.label for one in speakers), *(one.label for one in facts)])
        return ""

    monkeypatch.setattr(report, "answered", answered)
    assert report.main(["a/seed-1", "b/seed-1", "c", "--out", str(tmp_path / "page.html")]) == 0
    assert labels == ["a/seed-1", "b/seed-1", "c"] * 2
