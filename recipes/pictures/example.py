"""A page to hear: a plain transformer and LST go on with the same prompts, forced to speech and to text.

    make example                                              # the demo's two models, trained and heard: runs/example.html
    python -m recipes.pictures.example                        # the page alone
    python -m recipes.pictures.example --study --out docs/assets/example.html

Two minutes of speech make models that babble. `--study` lets three models of the study speak instead (`study_models.py`); their
weights are not kept in git.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs.hearing.listening import DemoPrompt, speech_prompts
from jobs.hearing.report import AnswerLimits, answered, make_parser, open_speaker, run_facts, speech_index
from model.inference.sampling import Sampling
from recipes.pictures.study_models import study_page
from schemas.commands.cli import Parser, command
from schemas.errors import ConfigError
from schemas.files import whole_file

RUNS = {"plain": "runs/train-plain", "lst": "runs/train-tiny"}
"""What the page calls a model -> where `make example` trained it."""
TEXT = "It was the best of times"
INTRODUCTION = (
    "Both models were trained by one command on the demo: two minutes of real speech and one play, with equal operations. "
    "That is far too little to speak: what they say is babble, and this page does not show otherwise. It shows what the "
    "path from recordings to a speaking model makes, and every part of it is the same at scale.",
    "Each model hears three seconds of a recording of the demo as units, and goes on from the line, in speech; below that, in "
    "text. Press play: the red line is the play head. Word boxes are the aligner's, each coloured cell is a unit of 40 ms, and "
    "the bottom row is what LST's global transformer sees as one patch. The plain transformer sees every unit.",
    "The speech is joined from the demo's recordings, so that even babble sounds like its voices. Models that were trained for "
    "longer are on a page that lies in the repository: docs/assets/example.html.",
)


def demo_page(runs: Sequence[tuple[str, str]], seconds: float) -> str:
    """The page of (label, folder) of trained runs; every answer in speech is at most `seconds` long.

    Raises:
        CheckpointError: a run is not there.
        ConfigError: no run has speech.
        ShardError: its shards cannot be read.
    """
    given = make_parser().parse_args([run for _, run in runs])
    speakers = [replace(open_speaker(given, run), label=label) for label, run in runs]
    index = speech_index(speakers)
    if index is None:
        raise ConfigError("the runs were trained on text alone: there is nothing to hear")
    text = DemoPrompt(name=TEXT, text=TEXT, units=None, audio=None)
    return answered(
        speakers,
        [
            replace(run_facts(run, speaker.trained), label=label)
            for (label, run), speaker in zip(runs, speakers, strict=True)
        ],
        [*speech_prompts(index, 3, 3.0, speakers), text],
        AnswerLimits(seconds=seconds, tokens=40),
        Sampling(temperature=0.8, top_p=0.95, seed=0),
        title="What two minutes of speech teach",
        command="python -m recipes.pictures.example",
        introduction=INTRODUCTION,
    )


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page."""
    parser = Parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/example.html"), help="the page (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of new speech, at most (default: %(default)s)")
    parser.add_argument("--study", action="store_true", help="three models of the study, from their runs")
    for label, run in RUNS.items():
        parser.add_argument(f"--{label}", default=run, metavar="RUN", help="a trained run (default: %(default)s)")
    given = parser.parse_args(arguments)
    page = study_page() if given.study else demo_page([(label, getattr(given, label)) for label in RUNS], given.seconds)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(given.out) as partial:
        partial.write_text(page, encoding="utf-8")
    print(f"{given.out}: {len(page) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
