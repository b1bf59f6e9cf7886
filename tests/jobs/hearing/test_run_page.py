"""The page of a training run: safe against what prompts hold, sounds and a script that the page's own policy allows."""

import base64
import hashlib
import math
import re
from itertools import pairwise

import numpy as np
import pytest

from jobs.hearing.curves import POINTS, curve_of
from jobs.hearing.listening import Heard, Said, patches_of
from jobs.hearing.run_page import Passage, RunFacts, render_run
from model.data.patching import AlignedConfig, DynamicConfig, StaticConfig
from model.inference.expectation import speech_expectation

ROWS = [{"step": step, "loss_text": 9.0 / step, "loss_speech": 4.0 / step} for step in range(1, 4)]


def page(text: str = "hello") -> str:
    units = np.arange(12, dtype=np.uint16)
    sound = np.sin(np.arange(12 * 640, dtype=np.float32) / 9)
    prompt = Heard(name="a", text=text, units=units[:6], audio=sound[: 6 * 640], words=((text, 1, 5),))
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
    return render_run("t", [run], [Passage(prompt=prompt, said=[said, written])], 640, ["#000000"] * 12, "cmd")


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
