"""The command line that the entry points share: --config, overrides, and one clear sentence for every mistake."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from jobs.runtime.places import base_folder, resolve_spec
from schemas.config import ConfigError, load_config
from schemas.reference import as_help
from schemas.spec import PipelineSpec

EXIT_CONFIG = 2


def spec_parser(description: str | None, examples: str) -> argparse.ArgumentParser:
    """A parser with --config and overrides such as stages.transcripts.beam_size=1."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"examples:\n{examples}\n{as_help(PipelineSpec)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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


def exit_with(main: Callable[[], int]) -> None:
    """Run a command; a mistake of the user's ends it with one sentence and exit code 2, without a traceback."""
    try:
        sys.exit(main())
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
