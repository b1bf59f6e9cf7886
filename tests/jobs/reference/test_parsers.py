"""docs/cli.md is what the parsers say, and every option says what it is for."""

import argparse
from importlib import import_module

import pytest

from jobs.reference.commands import MODULES
from jobs.reference.configuration import COMMANDS_PAGE, commands_page
from schemas.commands.cli import parser_of


def test_the_page_is_current() -> None:
    assert COMMANDS_PAGE.read_text(encoding="utf-8") == commands_page(), "run `lst configuration --write`"


def test_the_page_has_every_command() -> None:
    text = commands_page()
    assert [name for name in MODULES if f"### lst {name}\n" not in text] == []


@pytest.mark.parametrize("name", MODULES)
def test_every_option_has_a_meaning(name: str) -> None:
    def silent(parser: argparse.ArgumentParser) -> list[str]:
        subs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        own = [action.dest for action in parser._actions if action not in subs and not action.help]
        return own + [dest for sub in subs for inner in sub.choices.values() for dest in silent(inner)]

    assert silent(parser_of(import_module(MODULES[name]).main)) == []


@pytest.mark.parametrize("name", ["rejects", "report"])
def test_a_command_that_takes_an_output_says_so(name: str) -> None:
    parser = parser_of(import_module(MODULES[name]).main)
    assert "[OUTPUT key=value ...]" in " ".join(parser.format_usage().split())
    assert "(default: None)" not in parser.format_help()


def test_a_command_read_for_its_parser_does_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert parser_of(import_module("model.plots").main).format_usage().startswith("usage:")
    assert capsys.readouterr().out == ""
