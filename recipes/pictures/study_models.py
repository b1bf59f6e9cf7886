"""The page docs/assets/example.html: three small models of the study go on with stories they have never read.

Their runs are too large for the repository: `configs/experiments/study-ladder-natural-cuts.yaml` makes them, and says how its
ladder is made. Their voice:

    python -m recipes.ladder.voice configs/stories/ladder-lex3.yaml name=natural --out runs/ladder-natural/voice \\
        "units={kind: mfcc, num_units: 100, centroids: assets/ladder-kmeans-100, renditions: null}"

Greedy, so that it says the same everywhere.
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
from recipes.ladder.voice import read_voice
from schemas.errors import ConfigError
from schemas.tasks import read_task

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "runs" / "study-ladder-natural-cuts"
LADDER = ROOT / "runs" / "ladder-natural"
NUM_UNITS = 100
MODELS = {
    "plain": ("plain", "A plain transformer, one position per unit.", "64.3", "74.8"),
    "lst": (
        "learned-deep",
        "The Latent Speech-Text Transformer, patches cut where a table expects a word to end.",
        "70.8",
        "91.1",
    ),
    "bpe": ("bpe", "A plain transformer over a BPE of units.", "70.2", "82.2"),
}
"""Label -> its arm (seed 1); what it is; how many of 100 held-out twins it prefers rightly, speech to speech and speech to text:
its row in docs/results/study-ladder-natural-cuts/page.md, to which a test holds them."""
RUNGS = ("place", "spot")
"""The first pair of stories of each is the prompt. Picked after the answers to four rungs had been read: the page says so."""
TEXTS = ("Emma and Tom were in the garden.",)
INTRODUCTION = (
    "Three models of 1.1 to 1.4 million parameters, trained at one rate with equal operations (38 TFLOP) on 48 hours of small "
    "stories in one synthetic voice (flite's kal16), each sentence as it was spoken, cut into 100 units of sound, 25 a second. "
    "They know a few hundred words and some ways in which a story can go. They are no models of English.",
    "Each hears a held-out story without its end, and says what it finds likeliest: from the line on in speech, and below that "
    "in text. The stories come in pairs that differ in one place: the workshop or the library, in the toolbox or on the bench. "
    "Listen for that place in the answers. That is what the study measures; one page of examples proves nothing about it. These "
    "are the first pairs of two kinds of story out of six, picked because an answer can name the place; at names LST is the "
    "worst of the three.",
    "The speech is joined from pieces of the training voice. The demo's model (make train) has heard two minutes of speech, and "
    "babbles.",
)


def stories(voice: Synthesiser) -> Iterator[DemoPrompt]:
    """Held-out stories without their end, spoken, and those that are only written."""
    items = list(read_task(LADDER / "test.jsonl").items)
    for rung in RUNGS:
        for item in [item for item in items if item.group == rung][:2]:
            units = np.asarray(item.prompt.units, np.uint16)
            words = tuple((word, start, end) for word, start, end in item.prompt.words or ())
            yield DemoPrompt(name=item.id, text=item.prompt.text, units=units, audio=voice(units), words=words)
    for text in TEXTS:
        yield DemoPrompt(name=text, text=text, units=None, audio=None)


def facts_of(name: str, trained: Trained) -> RunFacts:
    """A model's tiles."""
    arm, what, speech, text = MODELS[name]
    size = sum(parameter.numel() for parameter in trained.module.parameters())
    tiles = ((f"{size / 1e6:.1f} M", "parameters"), (f"{trained.step:,}", "steps"))
    measured = ((f"{speech} %", "of twins right, speech to speech"), (f"{text} %", "speech to text"))
    return RunFacts(label=name, facts=(*tiles, *measured), rows=(), expectation=f"{what} ({arm}, seed 1)")


def study_page() -> str:
    """The page.

    Raises:
        ConfigError: the models or their voice are not here.
    """
    for needed in (*(run_of(name) for name in MODELS), LADDER / "voice"):
        if not needed.is_dir():
            raise ConfigError(
                f"{needed} is missing: the study's models are not kept in git (recipes/pictures/study_models.py says what makes "
                "them); without --study the demo's own models are heard"
            )
    voice = read_voice(LADDER / "voice", NUM_UNITS)
    prompts = list(stories(voice))
    trained = {name: load_trained(run_of(name)) for name in MODELS}
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


def run_of(name: str) -> Path:
    """The folder of a model's run."""
    return RUNS / f"{MODELS[name][0]}-s1-compute"
