"""The same thing has the same name in every command; a command that runs a model says where, and in which type."""

import argparse
from collections.abc import Iterator
from importlib import import_module

import pytest

from jobs.reference.commands import MODULES
from schemas.commands.cli import parser_of

RUN_A_MODEL = ("generate", "transfer asr", "transfer tts", "embeddings", "score", "lm-eval", "listen", "demo")
OTHER_NAMES = {
    "--output": "--out", "--export": "--out", "--dest": "--out", "--output-dir": "--out",
    "--data": "--shards", "--speak-with": "--voice-shards", "--licence": "--license", "--precision": "--dtype",
    "--gpu-id": "--device", "--spec": "--config", "--model": "--checkpoint", "--max-items": "--limit",
    "--language-code": "--language",
}  # fmt: skip
"""A name that was used or that one would think of -> ours."""


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command, and each of its subcommands, with its parser."""
    for name, module in MODULES.items():
        parser: argparse.ArgumentParser = parser_of(import_module(module).main)
        yield name, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from ((f"{name} {sub}", inner) for sub, inner in action.choices.items())


ACTIONS = [(name, action) for name, parser in parsers() for action in parser._actions]


def test_no_command_has_a_second_name_for_a_thing() -> None:
    for name, action in ACTIONS:
        for option in action.option_strings:
            assert option not in OTHER_NAMES, f"{name} {option}: called {OTHER_NAMES[option]} elsewhere"


def test_a_shard_index_is_called_shards() -> None:
    for name, action in ACTIONS:
        if "index.json" in (action.help or "") and action.dest != "like":
            assert action.dest in ("shards", "voice_shards", "data"), f"{name}: {action.dest} is the index of shards"


@pytest.mark.parametrize("command", RUN_A_MODEL)
def test_where_a_model_runs(command: str) -> None:
    options = {option: action for name, action in ACTIONS if name == command for option in action.option_strings}
    assert {"--device", "--dtype"} <= options.keys()
    assert options["--device"].default == "cpu"
    assert options["--device"].help == "cpu, cuda, cuda:1, ... (default: %(default)s)"


def test_a_flag_takes_the_same_kind_of_value_everywhere() -> None:
    """Such as --out a value and --force none: whoever learnt it in one command has learnt it."""
    kinds: dict[str, tuple[str, bool]] = {}
    for name, action in ACTIONS:
        for option in action.option_strings:
            first = kinds.setdefault(option, (name, action.nargs == 0))
            assert first[1] == (action.nargs == 0), f"{option} takes a value in one of {first[0]}, {name}"


def test_a_number_says_its_bounds() -> None:
    """-3 tokens, a seed of 1.5 or a temperature that is nan are answered by the command line, not somewhere in the work."""
    for name, action in ACTIONS:
        assert action.type not in (int, float), (
            f"{name} {action.dest}: name its bounds, as schemas.commands.cli.count does"
        )
