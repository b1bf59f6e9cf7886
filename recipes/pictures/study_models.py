"""The page docs/assets/example.html: three small models of the study go on with stories they have never read.

Its models lie in runs/example, since they are too large for the repository: exported runs of the study (plain, lst, bpe), the
voice of `recipes.ladder.voice`, and prompts.jsonl, lines of the ladder's test file. Greedy, so that it says the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jobs.hearing.listening import DemoPrompt, SpeakingModel
from jobs.hearing.report import AnswerLimits, answered
from jobs.hearing.run_page import RunFacts
from model.inference.continuation import Generator
from model.inference.sampling import Sampling
from model.inference.trained import Trained, load_trained
from model.voice.synthesiser import Synthesiser
from recipes.ladder.speech import PAD
from recipes.ladder.voice import read_voice
from schemas.errors import ConfigError
from schemas.tasks import read_task

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "runs" / "example"
NUM_UNITS = 100
MODELS = {
    "plain": (
        "A plain transformer, one position per unit (plain, seed 1), at a learning rate that the study found too high. At "
        "half of it this seed has 65.4 and 78.3 %, and names come back; that model was not kept.",
        "58.0",
        "72.8",
    ),
    "lst": (
        "The Latent Speech-Text Transformer, one patch per word in training (aligned-deep, seed 1).",
        "64.0",
        "87.9",
    ),
    "bpe": ("A plain transformer over a BPE of units (bpe, seed 2).", "93.9", "94.0"),
}
"""Folder -> what it is; how many of 100 held-out twins it prefers rightly, speech to speech and speech to text: its row in
docs/results/study.md, plain's in study-ladder-rate/page.md beside it, to which a test holds them."""
TEXTS = ("Emma and Tom were in the garden.",)
INTRODUCTION = (
    "Three models of 1.1 to 1.4 million parameters, trained with equal operations (37.6 TFLOP) on 48 hours of small stories in "
    "one synthetic voice (flite's kal16), each word in three fixed renditions. They know a few hundred words and some ways in "
    "which a story can go. They are no models of English, and nothing here says how natural speech would come out.",
    "Each hears the beginning of a held-out story as units, and says what it finds likeliest: from the line on in speech, and "
    "below that in text. Listen for the names and the place: who was heard comes back, or does not. That is what the study "
    "measures; one page of examples proves nothing about it.",
    "The speech is joined from pieces of the training voice. The demo's model (make train) has heard two minutes of speech, and "
    "babbles.",
)


def stories(voice: Synthesiser) -> Iterator[DemoPrompt]:
    """The first sentences of held-out stories, spoken, and those that are only written."""
    for item in read_task(ASSETS / "prompts.jsonl").items:
        first = item.prompt.text.partition(". ")[0].split()
        words = tuple((word, start, end) for word, start, end in (item.prompt.words or ())[: len(first)])
        units = np.asarray(item.prompt.units, np.uint16)[: words[-1][2] + PAD]
        yield DemoPrompt(name=item.id, text=" ".join(first) + ".", units=units, audio=voice(units), words=words)
    for text in TEXTS:
        yield DemoPrompt(name=text, text=text, units=None, audio=None)


def facts_of(name: str, trained: Trained) -> RunFacts:
    """A model's tiles."""
    what, speech, text = MODELS[name]
    size = sum(parameter.numel() for parameter in trained.module.parameters())
    tiles = ((f"{size / 1e6:.1f} M", "parameters"), (f"{trained.step:,}", "steps"))
    measured = ((f"{speech} %", "of twins right, speech to speech"), (f"{text} %", "speech to text"))
    return RunFacts(label=name, facts=(*tiles, *measured), rows=(), expectation=what)


def study_page() -> str:
    """The page.

    Raises:
        ConfigError: the models are not here.
    """
    if not ASSETS.is_dir():
        raise ConfigError(
            f"{ASSETS} is missing: the study's models are not kept in git; without --study the demo's own models are heard"
        )
    voice = read_voice(ASSETS / "voice", NUM_UNITS)
    prompts = list(stories(voice))
    trained = {name: load_trained(ASSETS / name) for name in MODELS}
    speakers = [
        SpeakingModel(label=name, trained=model, generator=Generator.of(model), synthesise=voice)
        for name, model in trained.items()
    ]
    return answered(
        speakers,
        [facts_of(name, model) for name, model in trained.items()],
        prompts,
        AnswerLimits(seconds=6.0, tokens=40),
        Sampling(temperature=0.0),
        title="Three small models, to be heard",
        command="python -m recipes.pictures.example --study",
        introduction=INTRODUCTION,
    )
