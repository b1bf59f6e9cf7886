"""The command line that the entry points share: --config and overrides."""

from __future__ import annotations

import argparse

from jobs.cluster.places import base_folder, resolve_spec
from schemas.commands.cli import Parser
from schemas.commands.reference import as_help
from schemas.config import load_config
from schemas.spec import PipelineSpec


def spec_parser(description: str | None, examples: str) -> Parser:
    """A parser with --config and overrides such as stages.transcripts.beam_size=1."""
    parser = Parser(description, f"{examples}\n{as_help(PipelineSpec)}")
    parser.add_argument("--config", default="configs/demo.yaml", help="the pipeline spec (default: %(default)s)")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="change a field of the spec: stages.transcripts.beam_size=1"
    )
    return parser


def load_spec(arguments: argparse.Namespace) -> PipelineSpec:
    """The spec that the command line names, all its paths absolute.

    Raises:
        ConfigError: see schemas.config.load_config.
    """
    base = base_folder()
    spec = load_config(PipelineSpec, arguments.config, arguments.overrides)
    return resolve_spec(spec, base)
