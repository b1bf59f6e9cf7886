"""A training run as a page with sound: its losses, what may be expected of it, and what it says to prompts.

examples:
  python -m jobs.hearing.report runs/train-tiny
  python -m jobs.hearing.report runs/lst runs/plain --prompts 4 --seconds 6 --open

Several runs answer the same prompts, one below the other. Prompts are the beginnings of samples of speech shards, and texts.
"""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.reporting.strips import unit_colours
from model.inference.placement import add_placement
from model.voice.options import add_speaking_arguments, open_synthesiser
from schemas.commands.cli import Parser, amount, command, distinct, natural, out_file, positive, share
from schemas.config import ConfigError, parse_config
from schemas.files import whole_file

if TYPE_CHECKING:
    from jobs.hearing.listening import DemoPrompt, SpeakingModel
    from jobs.hearing.run_page import RunFacts
    from model.inference.sampling import Sampling
    from model.inference.trained import Trained


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Let every run answer the same prompts and write the page."""
    given = make_parser().parse_args(arguments)
    from jobs.hearing.listening import DemoPrompt, speech_prompts
    from model.inference.sampling import Sampling

    labels = distinct([Path(run).name for run in given.runs], given.runs)
    speakers = [replace(open_speaker(given, run), label=label) for run, label in zip(given.runs, labels, strict=True)]
    index = given.shards or speech_index(speakers)
    prompts = []
    if index is not None and given.prompts:
        prompts = speech_prompts(index, given.prompts, given.prompt_seconds, speakers)
    prompts += [DemoPrompt(name=text[:40], text=text, units=None, audio=None) for text in given.text]
    sampling = parse_config(
        Sampling, {"temperature": given.temperature, "top_p": given.top_p, "seed": given.seed}, "the sampling options"
    )
    page = answered(
        speakers,
        [
            replace(run_facts(run, speaker.trained), label=speaker.label)
            for run, speaker in zip(given.runs, speakers, strict=True)
        ],
        prompts,
        AnswerLimits(seconds=given.seconds, tokens=given.max_tokens),
        sampling,
        title="What it says: " + ", ".join(speaker.label for speaker in speakers),
        command=" ".join(["python -m jobs.hearing.report", *given.runs]),
    )
    out = given.out or speakers[0].trained.root / "report.html"
    with whole_file(out) as partial:
        partial.write_text(page, encoding="utf-8")
    print(f"{out}: {len(page) / 1e6:.2f} MB")
    if given.open and not webbrowser.open(out.resolve().as_uri()):
        print("no browser could be started here", file=sys.stderr)
    return 0


@dataclass(frozen=True, kw_only=True)
class AnswerLimits:
    """Of an answer."""

    seconds: float
    """New speech, at most."""
    tokens: int
    """New text, at most."""


def answered(
    speakers: Sequence[SpeakingModel],
    facts: Sequence[RunFacts],
    prompts: Sequence[DemoPrompt],
    limits: AnswerLimits,
    sampling: Sampling,
    *,
    title: str,
    command: str,
    introduction: Sequence[str] = (),
) -> str:
    """The page on which every speaker answers every prompt; `facts` are the speakers', `introduction` is paragraphs."""
    from jobs.hearing.listening import listen
    from jobs.hearing.run_page import PromptAnswers, render_run

    answers = [
        listen(speaker, prompts, seconds=limits.seconds, tokens=limits.tokens, sampling=sampling)
        for speaker in speakers
    ]
    passages = [
        PromptAnswers(prompt=prompt, said=[said for answer in answers for said in answer[number]])
        for number, prompt in enumerate(prompts)
    ]
    units = next((speaker.trained.units for speaker in speakers if speaker.trained.units is not None), None)
    return render_run(
        title,
        facts,
        passages,
        hop=640 if units is None else units.hop,
        colours=unit_colours(1 if units is None else units.num_units, None),
        command=command,
        introduction=introduction,
        voices=voices_of(speakers),
    )


def voices_of(speakers: Sequence[SpeakingModel]) -> str:
    """Who speaks the answers, in a sentence; empty where nobody does."""
    from model.voice.mean_spectrum import MeanSpectrum
    from model.voice.unit_selection import UnitSelection
    from model.voice.vocoder import Vocoder

    kinds = {
        UnitSelection: "joined from recordings",
        MeanSpectrum: "made of mean spectra of units",
        Vocoder: "a vocoder's",
    }
    told = [name for kind, name in kinds.items() if any(isinstance(speaker.synthesise, kind) for speaker in speakers)]
    return f"Answers in speech are {' or '.join(told)}." if told else ""


def open_speaker(given: argparse.Namespace, run: str) -> SpeakingModel:
    """The run's newest model, and a voice for it where it has units: its evaluations' own unless another is asked for.

    Raises:
        ConfigError, CheckpointError, ShardError: one of them cannot be had.
    """
    from jobs.hearing.listening import SpeakingModel
    from model.inference.continuation import Generator
    from model.inference.placement import open_trained

    trained = open_trained(run, given.device, given.dtype)
    evaluation = trained.config.evaluation
    if evaluation is not None and not any(getattr(given, name) for name in dict(evaluation.voice)):
        given = argparse.Namespace(**{**vars(given), **dict(evaluation.voice)})
    voice = open_synthesiser(given, trained) if trained.units is not None else None
    return SpeakingModel(label=Path(run).name, trained=trained, generator=Generator.of(trained), synthesise=voice)


def speech_index(speakers: Sequence[SpeakingModel]) -> str | None:
    """The speech shards that the first run was trained on.

    Raises:
        ConfigError: the runs have units of different makings, which no common prompt can have.
    """
    made = {tuple(sorted(speaker.trained.units.cards)) for speaker in speakers if speaker.trained.units is not None}
    if len(made) > 1:
        raise ConfigError(
            "the runs have units of different tokenizers and cannot answer the same prompts: report them apart"
        )
    sources = (source for speaker in speakers for source in speaker.trained.config.data.sources)
    return next((source.data for source in sources if source.kind != "text"), None)


def run_facts(run: str, trained: Trained) -> RunFacts:
    """What the page tells of a run."""
    from jobs.hearing.run_page import RunFacts
    from model.evaluation.records import evaluations
    from model.inference.expectation import speech_expectation
    from model.monitor.metrics import read_rows

    rows: list[dict[str, Any]] = read_rows(trained.root / "metrics.jsonl")
    last = rows[-1] if rows else {}
    size = sum(parameter.numel() for parameter in trained.module.parameters())
    patches = trained.config.patches.policy if trained.module.config.kind == "lst" else "none"
    tiles = [
        (f"{size / 1e6:.1f} M", f"parameters, {trained.module.config.kind}"),
        (patches, "patches"),
        (f"{trained.step:,}", "steps"),
    ]
    if "speech_seconds" in last:
        tiles.append((f"{last['speech_seconds'] / 3600:.1f} h", "of speech read, repeats counted"))
    if "flops" in last:
        tiles.append((f"{last['flops'] / 1e12:.1f}", "TFLOP"))
    expectation = None if trained.units is None else speech_expectation(rows, trained.units.num_units)
    evaluation = trained.config.evaluation
    return RunFacts(
        label=Path(run).name,
        facts=tuple(tiles),
        rows=rows,
        expectation=expectation,
        evaluations=evaluations(trained.root),
        normalisation="sum" if evaluation is None else evaluation.normalisation,
    )


def make_parser() -> Parser:
    """Apart from `main`, for the reference of commands."""
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output_dir of a training run; several are compared")
    parser.add_argument("--shards", metavar="INDEX", help="where speech prompts come from (default: the training data)")
    parser.add_argument("--prompts", type=natural, default=3, help="speech prompts (default: %(default)s)")
    parser.add_argument("--prompt-seconds", type=positive, default=3.0, help="of each (default: %(default)s)")
    parser.add_argument("--text", action="append", default=[], metavar="TEXT", help="a text prompt; may be repeated")
    parser.add_argument("--seconds", type=positive, default=5.0, help="of new speech, at most (default: %(default)s)")
    parser.add_argument("--max-tokens", type=natural, default=60, help="of new text, at most (default: %(default)s)")
    parser.add_argument("--temperature", type=amount, default=0.8, help="(default: %(default)s)")
    parser.add_argument("--top-p", type=share, default=0.95, help="(default: %(default)s)")
    parser.add_argument("--seed", type=natural, default=0, help="(default: %(default)s)")
    parser.add_argument("--out", type=out_file, metavar="FILE", help="the page (default: report.html in the first run)")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    add_placement(parser)
    add_speaking_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
