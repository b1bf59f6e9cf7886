"""The command line that the entry points share: --config and overrides."""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs.cluster.places import base_folder, resolve_spec
from schemas.commands.cli import Parser
from schemas.commands.reference import as_help
from schemas.config import ConfigError, apply_override, load_config, parse_config
from schemas.spec import PipelineSpec


def spec_parser(
    description: str | None, examples: str, *, takes_output: bool = False, config: str | None = "configs/demo.yaml"
) -> Parser:
    """A parser with --config (default: `config`) and overrides such as stages.transcripts.beam_size=1; with `takes_output` an
    OUTPUT may stand among these, in place of --config (`spec_of_run`)."""
    parser = Parser(description, f"{examples}\n{as_help(PipelineSpec)}")
    spec = "the pipeline spec" + (", in place of OUTPUT" if takes_output else "")
    parser.add_argument("--config", default=config, help=spec + (" (default: %(default)s)" if config else ""))
    field = "change a field of the spec: stages.transcripts.beam_size=1"
    metavar, said = "key=value", field
    if takes_output:
        metavar, said = "OUTPUT key=value", f"the folder or URL that the run writes to; {field}"
    parser.add_argument("overrides", nargs="*", metavar=metavar, help=said)
    return parser


def load_spec(arguments: argparse.Namespace) -> PipelineSpec:
    """The spec that the command line names, all its paths absolute.

    Raises:
        ConfigError: see schemas.config.load_config.
    """
    base = base_folder()
    spec = load_config(PipelineSpec, arguments.config, arguments.overrides)
    return resolve_spec(spec, base)


def is_override(word: str) -> bool:
    """Whether a word changes a field of the spec; `runs/seed=2` and `s3://bucket/day=1` are places."""
    key, equals, _ = word.partition("=")
    return bool(equals) and "/" not in key


def spec_of_run(arguments: argparse.Namespace, command: str) -> PipelineSpec:
    """The spec of --config, else the one that the last run left in the OUTPUT that stands among the overrides, wherever that
    folder was when it ran.

    For parsers whose default of --config is None; `command` is what a mistake is answered with.

    Raises:
        ConfigError: neither is there, or both.
    """
    from jobs.runtime.rejects import SPEC  # here, since both take a second that the first line of a run has not
    from jobs.store.store import Store

    outputs = [word for word in arguments.overrides if not is_override(word)]
    if arguments.config is not None and not outputs:
        return load_spec(arguments)
    if arguments.config is not None or len(outputs) != 1:
        raise ConfigError(f"say which run: {command} OUTPUT, or {command} --config SPEC")
    try:
        document = Store(outputs[0]).read_json(SPEC, "name the spec instead, by --config SPEC")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{outputs[0]} is no output of a run: it has no {SPEC}") from error
    # Not the one on record: a folder that was moved or copied is meant itself, and `--retry` changes what it opens.
    document["output"] = outputs[0].rstrip("/") if "://" in outputs[0] else str(Path(outputs[0]).absolute())
    for override in arguments.overrides:
        if override not in outputs:
            apply_override(document, override)
    return parse_config(PipelineSpec, document, origin=f"{outputs[0]}/{SPEC}")
