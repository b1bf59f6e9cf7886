"""Speech recognition and synthesis by a fine-tuned speech-text model (paper, Table 5): fine-tune, generate, score.

Fine-tuning documents are `BOS <s> units <t> text EOS` (asr) and `BOS <t> text <s> units EOS` (tts), the loss on the answer alone.

examples:
  python -m model.transfer finetune asr --from runs/x --shards runs/y/shards/index.json --steps 500 --out runs/x-asr
  python -m model.transfer asr --checkpoint runs/x-asr --shards runs/y/shards/index.json --limit 200
  python -m model.transfer tts --checkpoint runs/x-tts --task units.jsonl --voice-shards runs/y/shards/index.json --wav-dir out
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from model.inference.placement import add_placement, open_trained
from model.voice.options import add_speaking_arguments, open_synthesiser
from schemas.commands.cli import Parser, amount, begin, command, count, natural, out_file, positive

if TYPE_CHECKING:
    from model.data.examples import Example
    from model.inference.continuation import Generated, Generator
    from model.inference.sampling import Sampling
    from model.inference.trained import Trained
    from model.training.config import TrainConfig
    from model.voice.recognition import ErrorRates
    from model.voice.synthesiser import Synthesiser

Kind = Literal["asr", "tts"]


@dataclass(frozen=True, kw_only=True)
class TransferResult:
    """Of one model on a list of examples."""

    kind: Kind
    wer: float
    """Percent, over all words together."""
    cer: float
    examples: int
    context_units: int
    """Speech units of the prompts (asr), 0 for tts."""
    context_latents: int
    """What the global transformer read of them: the paper's "context units"."""
    generated_elements: int
    """Text tokens (asr) or units (tts), EOS left out."""
    generated_latents: int
    """Global steps that they took: the paper's "generated units"."""
    ended: int
    """Examples whose answer ended by itself."""
    seconds: float
    heard: list[tuple[str, str, str]]
    """(name, reference, hypothesis) of each."""


def finetune_config(
    source: str,
    *,
    kind: Kind,
    data: str,
    steps: int,
    output_dir: str,
    lr: float,
    seed: int,
    unit: Literal["segment", "passage"] = "segment",
    changes: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """The run that fine-tunes the checkpoint or run `source`: its own configuration with one source, the loss on the answer, and
    weights from `source`; a curriculum goes on as it ended. `changes` replaces whole fields. Train it with
    `model.training.loop.train`.

    Raises:
        CheckpointError, ConfigError: see `load_trained`.
    """
    from model.inference.trained import load_trained
    from model.training.config import TrainConfig
    from model.training.parts import with_own_parts

    trained = load_trained(source)
    config = trained.config.model_dump(mode="json")
    config["data"] = with_own_parts(trained.config.data, trained.root).model_dump(mode="json")
    config["data"]["sources"] = [{"kind": kind, "data": data, "weight": 1.0, "unit": unit, "loss_on": "answer"}]
    config["data"]["tokenizer"]["train_size"] = None
    config["optimiser"]["lr"] = lr
    if config["patches"]["policy"] == "curriculum":
        config |= {"patches": config["patches"]["otherwise"], "curriculum_steps": None}
    config["schedule"] = {"kind": "cosine", "warmup_steps": max(1, steps // 20), "min_ratio": 0.1}
    config |= {
        "output_dir": output_dir,
        "seed": seed,
        "init_from": source,
        "budget": {"steps": steps},
        "checkpoint": {"every_steps": steps, "keep": 1},
        "validation": None,
        "evaluation": None,
    }
    return TrainConfig.model_validate({**config, **(changes or {})})


def evaluate_asr(
    trained: Trained,
    examples: Sequence[Example],
    *,
    patching: str = "auto",
    batch: int = 16,
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TransferResult:
    """Write what is said, greedily: word error rate over all examples. A text that does not end is cut at `max_tokens` (default:
    half a token per unit and 20 more, which fast speech does not reach).
    """
    from model.inference.continuation import Generator
    from model.voice.recognition import error_rates

    generator = Generator.of(trained, patching)

    def prompt(example: Example) -> list[int]:
        return generator.speech_prompt(example.units)

    def limit(examples: Sequence[Example]) -> int:
        return max_tokens or max(len(example.units) for example in examples) // 2 + 20

    begun = time.perf_counter()
    results = _generate(generator, examples, prompt, "asr", batch, limit, progress)
    heard = [result.text for result in results]
    rates = error_rates([example.text for example in examples], heard)
    units = sum(len(example.units) for example in examples)
    return _result("asr", examples, results, heard, rates, units, time.perf_counter() - begun)


def evaluate_tts(
    trained: Trained,
    examples: Sequence[Example],
    synthesise: Synthesiser,
    recognise: Callable[[np.ndarray, int], str],
    *,
    patching: str = "auto",
    batch: int = 16,
    sampling: Sampling | None = None,
    max_units: int | None = None,
    keep: Callable[[Example, np.ndarray], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TransferResult:
    """Speak what is written, and let a recogniser hear it: character error rate over all examples. Speech that does not end is
    cut at `max_units` (default: three units per character and 50 more). `keep` receives each waveform.
    """
    from model.inference.continuation import Generator
    from model.voice.recognition import error_rates

    generator = Generator.of(trained, patching)

    def prompt(example: Example) -> list[int]:
        return generator.text_prompt(example.text)

    def limit(examples: Sequence[Example]) -> int:
        return max_units or 3 * max(len(example.text) for example in examples) + 50

    begun = time.perf_counter()
    results = _generate(generator, examples, prompt, "tts", batch, limit, progress, sampling)
    heard = []
    for example, result in zip(examples, results, strict=True):
        wave = synthesise(result.units)
        if keep is not None:
            keep(example, wave)
        heard.append(recognise(wave, synthesise.sample_rate) if len(wave) else "")
    rates = error_rates([example.text for example in examples], heard)
    return _result("tts", examples, results, heard, rates, 0, time.perf_counter() - begun)


def _generate(
    generator: Generator,
    examples: Sequence[Example],
    prompt: Callable[[Example], list[int]],
    kind: Kind,
    batch: int,
    limit: Callable[[Sequence[Example]], int],
    progress: Callable[[int, int], None] | None,
    sampling: Sampling | None = None,
) -> list[Generated]:
    """Answers in the order of the examples; batches hold prompts of like length."""
    from model.inference.sampling import Sampling

    prompts = [prompt(example) for example in examples]
    order = sorted(range(len(examples)), key=lambda number: -len(prompts[number]))
    results: dict[int, Generated] = {}
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        found = generator.generate(
            [prompts[row] for row in rows],
            "text" if kind == "asr" else "speech",
            sampling or Sampling(temperature=0),
            max_units=limit([examples[row] for row in rows]),
            max_tokens=limit([examples[row] for row in rows]),
            keys=[examples[row].name for row in rows],
        )
        results |= dict(zip(rows, found, strict=True))
        if progress is not None:
            progress(len(results), len(order))
    return [results[number] for number in range(len(examples))]


def _result(
    kind: Kind,
    examples: Sequence[Example],
    results: Sequence[Generated],
    heard: list[str],
    rates: ErrorRates,
    context_units: int,
    seconds: float,
) -> TransferResult:
    return TransferResult(
        kind=kind,
        wer=rates.wer,
        cer=rates.cer,
        examples=len(examples),
        context_units=context_units,
        context_latents=sum(result.prompt_latents for result in results),
        generated_elements=sum(len(ids) for result in results for _, ids in result.spans),
        generated_latents=sum(result.num_latents - result.prompt_latents for result in results),
        ended=sum(result.ended for result in results),
        seconds=seconds,
        heard=[(e.name, e.text, text) for e, text in zip(examples, heard, strict=True)],
    )


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Fine-tune, recognise or synthesise, by the subcommand."""
    given = _parser().parse_args(arguments)
    begin("loading the model")
    from model.data.examples import examples_of_shards, examples_of_task
    from model.data.sources import command_cache
    from model.training.loop import train

    if given.command == "finetune":
        config = finetune_config(
            given.source, kind=given.kind, data=given.shards, steps=given.steps, output_dir=given.out, lr=given.lr,
            seed=given.seed, unit=given.unit,
        )  # fmt: skip
        return train(config)
    trained = open_trained(given.checkpoint, given.device, given.dtype)
    if given.task:
        examples = examples_of_task(given.task, given.limit)
    else:
        cache = command_cache(trained.config.data, given.shards)
        examples = examples_of_shards(given.shards, given.unit, given.limit, cache)
    if given.command == "asr":
        result = evaluate_asr(trained, examples, patching=given.patching, batch=given.batch, progress=_show)
    else:
        result = _speak(trained, examples, given)
    print(summary(result))
    if given.json:
        given.json.write_text(json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def summary(result: TransferResult) -> str:
    """What there is to say of a result, in lines."""
    what = "text tokens" if result.kind == "asr" else "units"
    lines = [f"  {name}: {said!r} -> {found!r}" for name, said, found in result.heard[:3]]
    if result.kind == "asr":
        lines.append(f"context      {result.context_units} units read as {result.context_latents} latents")
    return "\n".join(
        [
            *lines,
            f"generated    {result.generated_elements} {what} in {result.generated_latents} latents; "
            f"{result.ended} of {result.examples} ended by themselves; {result.seconds:.1f} s",
            f"WER {result.wer:.1f} %   CER {result.cer:.1f} %   over {result.examples} examples",
        ]
    )


def _speak(trained: Trained, examples: Sequence[Example], given: argparse.Namespace) -> TransferResult:
    from model.inference.sampling import Sampling
    from model.voice.recognition import GreedyWhisper
    from model.voice.synthesiser import write_wav

    synthesise = open_synthesiser(given, trained)

    def keep(example: Example, wave: np.ndarray) -> None:
        if given.wav_dir:
            name = "".join(c if c.isalnum() or c in "-_" else "_" for c in example.name)
            write_wav(Path(given.wav_dir) / f"{name}.wav", wave, synthesise.sample_rate)

    recognise = GreedyWhisper(given.whisper)
    sampling = Sampling(temperature=given.temperature, seed=given.seed)
    return evaluate_tts(
        trained, examples, synthesise, recognise, patching=given.patching, batch=given.batch, sampling=sampling,
        keep=keep, progress=_show,
    )  # fmt: skip


def _show(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}/{total} ", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _parser() -> Parser:
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    tune = commands.add_parser("finetune", help="train a checkpoint on one of the two formats")
    tune.add_argument("kind", choices=["asr", "tts"], help="recognition or synthesis")
    tune.add_argument("--from", dest="source", required=True, metavar="RUN", help="a run, or one of its checkpoints")
    tune.add_argument("--shards", required=True, metavar="INDEX", help="the index.json of speech shards")
    tune.add_argument("--out", required=True, metavar="DIR", help="the new run's directory")
    tune.add_argument("--steps", type=count, required=True, help="optimiser steps")
    tune.add_argument("--lr", type=positive, default=2e-4, help="(default: %(default)s)")
    for name, what in (("asr", "write what is said, and count the errors"), ("tts", "speak, and let Whisper listen")):
        command = commands.add_parser(name, help=what)
        command.add_argument("--checkpoint", required=True, help="a fine-tuned run, or one of its checkpoints")
        source = command.add_mutually_exclusive_group(required=True)
        source.add_argument("--shards", metavar="INDEX", help="speech shards")
        source.add_argument("--task", metavar="FILE", help="a prepared task: its prompts and right endings")
        add_placement(command)
        command.add_argument("--limit", type=count, metavar="N", help="the first N utterances")
        command.add_argument("--batch", type=count, default=16, help="(default: %(default)s)")
        command.add_argument("--patching", default="auto", help="auto, static:4 or dynamic:2:8 (default: %(default)s)")
        command.add_argument("--json", type=out_file, metavar="OUT", help="write the result, every hypothesis included")
        if name == "tts":
            add_speaking_arguments(command)
            command.add_argument("--whisper", default="models/whisper-tiny.en", help="(default: %(default)s)")
            command.add_argument("--wav-dir", metavar="DIR", help="keep what was spoken")
            command.add_argument("--temperature", type=amount, default=0.0, help="0: greedy (default: %(default)s)")
    for command in commands.choices.values():
        command.add_argument("--seed", type=natural, default=1, help="(default: %(default)s)")
        command.add_argument(
            "--unit",
            choices=["segment", "passage"],
            default="segment",
            help="what is an utterance (default: %(default)s)",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
