"""What a model says to prompts, as pages have it: sound at 16 kHz, and only what is new where that is asked for."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jobs.hearing import listening
from jobs.hearing.demo import Demo
from jobs.hearing.listening import DemoPrompt, Said, SpeakingModel, listen
from model.data.patching import StaticConfig
from model.data.sources import DataConfig, UnitFacts
from model.inference.continuation import Generator
from model.inference.sampling import Sampling
from schemas.cards import Card
from schemas.config import ConfigError
from schemas.models.unit_bpe import UnitBpe
from tests.model.inference.test_continuation import CONFIGS, make_generator
from tests.synthetic_shards import write_speech_shards

HOP = 640
PROMPT = DemoPrompt(name="a", text="", units=np.arange(6, dtype=np.uint16), audio=None)


class Vocoder:
    """A synthesiser of 24 kHz."""

    hop, sample_rate = HOP * 3 // 2, 24_000

    def __call__(self, units: np.ndarray) -> np.ndarray:
        return np.full(len(units) * self.hop, 0.1, dtype=np.float32)


def speaker() -> SpeakingModel:
    generator = make_generator(CONFIGS["lst"])
    trained: Any = SimpleNamespace(units=SimpleNamespace(hop=HOP, cards={}), module=generator.model)
    return SpeakingModel(label="a", trained=trained, generator=generator, synthesise=Vocoder())


def test_a_vocoder_of_another_rate_is_heard_at_its_own_speed() -> None:
    ((spoken, written),) = listen(speaker(), [PROMPT], seconds=1.0, tokens=3, sampling=Sampling())
    assert spoken.audio is not None
    assert spoken.audio.dtype == np.float32
    assert len(spoken.audio) == len(spoken.units) * HOP
    assert written.audio is None


def test_no_prompts_have_no_answers() -> None:
    assert listen(speaker(), [], seconds=1.0, tokens=3, sampling=Sampling()) == []


@pytest.mark.parametrize("new", [0, 3])
def test_the_prompt_is_not_played_as_what_came_after_it(new: int, monkeypatch: pytest.MonkeyPatch) -> None:
    units = np.arange(6 + new, dtype=np.uint16)
    about: dict[str, Any] = {"label": "a", "text": "", "prompt_frames": 6, "patches": (), "ended": True}
    spoken = Said(to_speech=True, units=units, audio=np.ones(len(units) * HOP, np.float32), **about)
    written = Said(to_speech=False, units=units[:0], audio=None, **about)
    monkeypatch.setattr(listening, "listen", lambda *_, **__: [[spoken, written]])
    demo = Demo(speaker(), None, Sampling(), 1.0)
    monkeypatch.setattr(demo, "_hear", lambda _: PROMPT)
    answer = demo.answer("", b"sound")
    assert (answer["speech"] is None) == (new == 0)
    assert answer["facts"] == f"{new} new units"


def test_patches_of_a_unit_bpe_are_those_of_its_tokens() -> None:
    """Where a patch is two tokens, the page drew one of two units."""
    bpe = UnitBpe.train([np.array([0, 1, 2] * 9)], 9, 12)
    owner = speaker()
    generator = Generator(owner.generator.model, owner.generator.composer, StaticConfig(policy="static", size=2))
    generator.composer.unit_bpe = bpe
    prompt = np.array([0, 1, 2, 0, 1, 2, 5, 7], dtype=np.uint16)
    tokens = bpe.encode(prompt)
    assert len(tokens) < len(prompt)
    result: Any = SimpleNamespace(
        spans=[("speech", [generator.vocabulary.unit_offset + 3])], units=np.array([3]), text=""
    )
    result.ended = True
    said = listening._said(replace(owner, generator=generator), replace(PROMPT, units=prompt), result, True)
    edges = np.cumsum([0, *bpe.lengths[[*tokens, 3]]])
    assert [start for start, _, _ in said.patches] == edges[:-1:2].tolist()
    assert said.patches[-1][1] == len(prompt) + 1


def of_units(num_units: int) -> Any:
    """A model as far as prompts are read for it, of the units of synthetic shards."""
    source = {"kind": "speech", "data": "unread", "weight": 1.0}
    data = DataConfig.model_validate({"sources": [source], "tokenizer": {"path": "unread"}})
    card = Card(kind="unit_tokenizer", name="random", facts={"units": num_units})
    units = UnitFacts(num_units=num_units, hop=HOP, cards={card.card_id: card})
    return SimpleNamespace(trained=SimpleNamespace(units=units, config=SimpleNamespace(data=data)))


def test_units_of_another_making_are_refused(tmp_path: Path) -> None:
    """A model went on with them as if they were its own sounds."""
    index = str(write_speech_shards(tmp_path, [1], num_units=20))
    assert len(listening.speech_prompts(index, 1, 3.0, [of_units(20), of_units(20)])) == 1
    with pytest.raises(
        ConfigError, match=r"index.json has units of unit_tokenizer-random-\w+, the model of unit_token"
    ):
        listening.speech_prompts(index, 1, 3.0, [of_units(20), of_units(30)])


def test_fewer_samples_than_prompts_are_all_heard(tmp_path: Path) -> None:
    """Eight prompts of three samples were two: the last was left out, and the first came twice."""
    index = str(write_speech_shards(tmp_path, [2, 1], num_units=20))
    speaker = of_units(20)
    for count, wanted in ((8, [0, 1, 2]), (3, [0, 1, 2]), (2, [0, 2]), (1, [0])):
        names = [prompt.name for prompt in listening.speech_prompts(index, count, 3.0, [speaker])]
        assert names == [f"sample-{number:06d}" for number in wanted]
