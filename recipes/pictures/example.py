"""A page to hear: three small models of the study go on with stories they have never read, forced to speech and to text.

    python -m recipes.pictures.example --out docs/assets/example.html

Its models lie in runs/example, since they are too large for the repository: exported runs of the study (plain, lst, bpe), the
voice of `recipes.ladder.voice`, and prompts.jsonl, lines of the ladder's test file. Seconds on one core; greedy, so that it says
the same everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jobs.hearing.listening import Heard, Speaker, listen
from jobs.hearing.run_page import Passage, RunFacts, render_run
from jobs.reporting.strips import unit_colours
from model.inference.continuation import Generator
from model.inference.sampling import Sampling
from model.inference.trained import Trained, load_trained
from model.voice.synthesiser import Synthesiser
from recipes.ladder.speech import HOP, PAD
from recipes.ladder.voice import read_voice
from schemas.commands.cli import Parser, command
from schemas.files import whole_file
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


def stories(voice: Synthesiser) -> Iterator[Heard]:
    """The first sentences of held-out stories, spoken, and those that are only written."""
    for item in read_task(ASSETS / "prompts.jsonl").items:
        first = item.prompt.text.partition(". ")[0].split()
        words = tuple((word, start, end) for word, start, end in (item.prompt.words or ())[: len(first)])
        units = np.asarray(item.prompt.units, np.uint16)[: words[-1][2] + PAD]
        yield Heard(name=item.id, text=" ".join(first) + ".", units=units, audio=voice(units), words=words)
    for text in TEXTS:
        yield Heard(name=text, text=text, units=None, audio=None)


def facts_of(name: str, trained: Trained) -> RunFacts:
    """A model's tiles."""
    what, speech, text = MODELS[name]
    size = sum(parameter.numel() for parameter in trained.module.parameters())
    tiles = ((f"{size / 1e6:.1f} M", "parameters"), (f"{trained.step:,}", "steps"))
    measured = ((f"{speech} %", "of twins right, speech to speech"), (f"{text} %", "speech to text"))
    return RunFacts(label=name, facts=(*tiles, *measured), rows=(), expectation=what)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page."""
    parser = Parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/example.html"), help="the page (default: %(default)s)")
    given = parser.parse_args(arguments)
    voice = read_voice(ASSETS / "voice", NUM_UNITS)
    prompts = list(stories(voice))
    trained = {name: load_trained(ASSETS / name) for name in MODELS}
    speakers = [
        Speaker(label=name, trained=model, generator=Generator.of(model), synthesise=voice)
        for name, model in trained.items()
    ]
    answers = [listen(one, prompts, seconds=6.0, tokens=40, sampling=Sampling(temperature=0.0)) for one in speakers]
    page = render_run(
        "Three small models, to be heard",
        [facts_of(name, model) for name, model in trained.items()],
        [
            Passage(prompt=prompt, said=[said for answer in answers for said in answer[number]])
            for number, prompt in enumerate(prompts)
        ],
        hop=HOP,
        colours=unit_colours(NUM_UNITS, None),
        command="python -m recipes.pictures.example",
        introduction=INTRODUCTION,
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(given.out) as partial:
        partial.write_text(page, encoding="utf-8")
    print(f"{given.out}: {len(page) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
