"""Continue prompts in text or speech, and hear what the model says.

examples:
  python -m model.generate --checkpoint runs/x --prompt "Tom went to the" --to text
  python -m model.generate --checkpoint runs/x --prompt "Tom went to the" --to speech --wav out.wav
  python -m model.generate --checkpoint runs/x --speech runs/demo/shards/index.json#KEY --prompt-seconds 3 --wav out.wav
  python -m model.generate --checkpoint runs/x --speech task-units.jsonl#item-7 --to free --batch 4 --json out.json
  python -m model.generate --checkpoint runs/x --speech clip.units.npy --temperature 0 --stream

A speech prompt is a sample of speech shards (INDEX.json#KEY; without a key the first), the prompt of an item of a prepared task
(TASK.jsonl#ID, on this machine alone), or a uint16 array (.npy). The waveform holds the prompt's units and the new ones, spoken
by joined recordings of the training data unless another voice is chosen.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.inference.placement import add_placement, open_trained
from model.voice.options import add_speaking_arguments, open_synthesiser
from schemas.commands.cli import Parser, amount, begin, command, count, natural, out_file, positive, share, utf8
from schemas.config import ConfigError, parse_config
from schemas.storage.files import Files
from schemas.tasks import read_task

if TYPE_CHECKING:
    from model.inference.continuation import Element, Generated, Generator
    from model.inference.trained import Trained
    from model.voice.synthesiser import Synthesiser
    from schemas.cards import Card


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is continued."""

    name: str
    text: str
    units: np.ndarray | None
    """None: a text prompt."""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Continue the prompts, print them, and write and speak what was asked for."""
    given = make_parser().parse_args(arguments)
    begin(f"loading {given.checkpoint}")
    import torch

    from model.inference.continuation import Generator
    from model.inference.expectation import speech_expectation
    from model.inference.sampling import Sampling
    from model.monitor.metrics import read_rows
    from model.voice.synthesiser import sound_format

    if given.wav:
        sound_format(given.wav)
    if given.threads:
        torch.set_num_threads(given.threads)
    trained = open_trained(given.checkpoint, given.device, given.dtype)
    per_second = 16_000 / trained.units.hop if trained.units is not None else 0.0
    prompts = [prompt for prompt in read_prompts(given, per_second, trained) for _ in range(given.batch)]
    generator = Generator.of(trained, given.patching)
    fields = ("temperature", "top_k", "top_p", "seed")
    sampling = parse_config(Sampling, {name: getattr(given, name) for name in fields}, "the sampling options")
    synthesise = open_synthesiser(given, trained) if given.wav else None
    run = generator.start(
        [encode(generator, prompt) for prompt in prompts],
        given.to,
        sampling,
        max_units=given.max_units,
        max_tokens=given.max_tokens,
    )
    show = _streaming(generator) if given.stream else None
    for element in run:
        if show is not None:
            show(element)
    results = run.results()
    rows = [describe(prompt, result) for prompt, result in zip(prompts, results, strict=True)]
    for row in rows:
        print(_line(row))
    if any(len(result.units) for result in results) and trained.units is not None:
        expected = speech_expectation(read_rows(trained.root / "metrics.jsonl"), trained.units.num_units)
        if expected:
            print(expected)
    facts = statistics(results, run.seconds, per_second)
    print(_facts_line(facts))
    if synthesise is not None:
        speak(given.wav, prompts, results, synthesise)
    if given.json:
        document = {
            "checkpoint": given.checkpoint,
            "sampling": sampling.model_dump(),
            "statistics": facts,
            "rows": rows,
        }
        given.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def read_prompts(given: argparse.Namespace, units_per_second: float, trained: Trained) -> list[Prompt]:
    """The prompts that the command line names; none at all is one empty prompt.

    Raises:
        ConfigError, ShardError: one of them cannot be read, or has units of another making than the model's.
    """
    prompts = [Prompt(name=text[:40], text=text, units=None) for text in given.prompt]
    for source in given.speech:
        name, text, units = _speech(source, trained)
        if given.prompt_seconds is not None:
            units = units[: max(1, round(given.prompt_seconds * units_per_second))]
        prompts.append(Prompt(name=name, text=text, units=units))
    return prompts or [Prompt(name="(nothing)", text="", units=None)]


def speak(path: Path, prompts: Sequence[Prompt], results: Sequence[Generated], synthesise: Synthesiser) -> None:
    """Write a waveform per row: the prompt's units, if it has some, and the new ones."""
    from model.voice.synthesiser import write_wav

    for number, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
        file = path if len(prompts) == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        before = np.zeros(0, dtype=np.uint16) if prompt.units is None else prompt.units
        units = np.concatenate([before, result.units])
        if len(units):
            write_wav(file, synthesise(units), synthesise.sample_rate)
            print(f"wrote {file}: {len(before)} units of the prompt and {len(result.units)} new ones")


def _speech(source: str, trained: Trained) -> tuple[str, str, np.ndarray]:
    """Name, text and units of a speech prompt."""
    from model.data.shards import ShardSet
    from model.data.sources import command_cache

    path, _, key = source.partition("#")
    if path.endswith(".npy"):
        try:
            units = np.load(_content(path) if "://" in path else path, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(f"cannot read the units {path}: {error}") from error
        if not isinstance(units, np.ndarray):
            raise ConfigError(f"{path} is an archive of arrays; one array is wanted")
        if units.ndim != 1 or units.dtype.kind not in "iu":
            raise ConfigError(f"{path} is {units.dtype} {list(units.shape)}; a list of whole numbers is wanted")
        return Path(path).name, "", units
    if path.endswith(".jsonl"):
        task = read_task(path)
        _check_units(path, task.header.cards or {}, trained)
        items = [item for item in task.items if not key or item.id == key]
        if not items or items[0].prompt.units is None:
            raise ConfigError(f"{path} has no item {key or 'at all'} with a prompt of units")
        return items[0].id, items[0].prompt.text, np.asarray(items[0].prompt.units)
    shards = ShardSet(path, command_cache(trained.config.data, path))
    _check_units(path, shards.index.cards, trained)
    for shard, size in enumerate(shards.counts):
        for number in range(size):
            sample = shards.read(shard, number)
            if len(sample.units) and (not key or sample.meta.key == key):
                return sample.meta.key, sample.meta.text, sample.units
    raise ConfigError(f"{path} has no speech sample {key!r}")


def _check_units(name: str, cards: Mapping[str, Card], trained: Trained) -> None:
    if trained.units is not None:
        trained.units.check_tokenizer(cards, name)


def _content(url: str) -> io.BytesIO:
    folder, _, name = url.rpartition("/")
    return io.BytesIO(Files(folder).read_bytes(name))


def encode(generator: Generator, prompt: Prompt) -> list[int]:
    """The prompt's elements."""
    return generator.text_prompt(prompt.text) if prompt.units is None else generator.speech_prompt(prompt.units)


def describe(prompt: Prompt, result: Generated) -> dict[str, Any]:
    """One continuation, as JSON has it."""
    return {
        "prompt": prompt.name,
        "prompt_text": prompt.text,
        "prompt_units": None if prompt.units is None else prompt.units.tolist(),
        "text": result.text,
        "units": result.units.tolist(),
        "spans": [[modality, len(ids)] for modality, ids in result.spans],
        "ended": result.ended,
        "prompt_latents": result.prompt_latents,
        "latents": result.num_latents,
        "global_steps": result.num_global_steps,
    }


def statistics(results: Sequence[Generated], seconds: float, units_per_second: float) -> dict[str, float]:
    """Over all rows, the prompts left out of the times."""
    elements = sum(len(ids) for result in results for _, ids in result.spans)
    units = sum(len(result.units) for result in results)
    latents = sum(result.num_latents - result.prompt_latents for result in results)
    return {
        "rows": len(results),
        "elements": elements,
        "units": units,
        "latents": latents,
        "seconds": seconds,
        "elements_per_second": elements / seconds,
        "units_per_second": units / seconds,
        "latents_per_second": latents / seconds,
        "speech_seconds_per_second": units / units_per_second / seconds if units else 0.0,
    }


def _line(row: dict[str, Any]) -> str:
    spans = ", ".join(f"{size} {'units' if kind == 'speech' else 'tokens'}" for kind, size in row["spans"]) or "nothing"
    said = f": {row['text']!r}" if row["text"] else ""
    end = "ended by itself" if row["ended"] else "cut at the limit"
    latents = f"{row['latents']} latents with the prompt's, {row['global_steps']} global steps"
    return f"{row['prompt']!r} -> {spans}{said} ({end}; {latents})"


def _facts_line(facts: dict[str, float]) -> str:
    said = f"{facts['elements']:.0f} elements in {facts['seconds']:.2f} s: "
    latents = f"{facts['latents_per_second']:.1f} latents/s"
    if not facts["units"]:
        return f"{said}{facts['elements_per_second']:.1f} elements/s, {latents}"
    speech = f"{facts['speech_seconds_per_second']:.2f} s of speech per s"
    return f"{said}{facts['units_per_second']:.1f} units/s, {latents}, {speech}"


def _streaming(generator: Generator) -> Callable[[Element], None]:
    """Prints elements as they come: row, modality, token or unit."""
    offset = {"text": generator.vocabulary.text_offset, "speech": generator.vocabulary.unit_offset}

    def show(element: Element) -> None:
        if element.modality is not None:
            print(element.row, element.modality, element.id - offset[element.modality], flush=True)

    return show


def make_parser() -> Parser:
    """Apart from `main`, for the reference of commands."""
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="a run's output_dir, or one of its checkpoints")
    parser.add_argument(
        "--prompt", type=utf8, action="append", default=[], metavar="TEXT", help="a text to continue; may be repeated"
    )
    parser.add_argument("--speech", action="append", default=[], metavar="SOURCE", help="speech to continue; see above")
    parser.add_argument("--prompt-seconds", type=positive, metavar="S", help="only the beginning of the speech prompts")
    parser.add_argument("--to", choices=["text", "speech", "free"], default="free", help="(default: %(default)s)")
    parser.add_argument("--temperature", type=amount, default=1.0, help="0: greedy (default: %(default)s)")
    parser.add_argument("--top-k", type=count, metavar="K", help="draw from the K likeliest alone")
    parser.add_argument("--top-p", type=share, metavar="P", help="draw from the likeliest that make up P together")
    parser.add_argument("--seed", type=natural, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--batch", type=count, default=1, metavar="N", help="continuations of each prompt (default: %(default)s)"
    )
    parser.add_argument("--max-units", type=natural, default=250, help="new units of a row (default: %(default)s)")
    parser.add_argument(
        "--max-tokens", type=natural, default=100, help="new text tokens of a row (default: %(default)s)"
    )
    parser.add_argument("--patching", default="auto", help="auto, static:4 or dynamic:2:8 (default: %(default)s)")
    parser.add_argument("--stream", action="store_true", help="print every element as it comes")
    parser.add_argument(
        "--wav", type=out_file, metavar="OUT", help="speak it; with several rows OUT-0.wav, OUT-1.wav, ..."
    )
    parser.add_argument("--json", type=out_file, metavar="OUT", help="write everything")
    parser.add_argument("--threads", type=count, help="CPU threads; torch's choice otherwise")
    add_placement(parser)
    add_speaking_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
