"""The reference of the command line, read from the parsers: what a command takes, as Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from schemas.commands.cli import DEBUG, Parser

FIELDS = "fields (docs/configuration.md"
"""Begins the list of a configuration's fields in --help, which has a page of its own."""


def as_section(name: str, module: str, what: str, parser: Parser) -> str:
    """A command's section.

    Args:
        name: as `lst NAME`.
        module: as `python -m MODULE`.
        what: it does, in a few words.
    """
    lines = [f"### lst {name}", "", f"`python -m {module}`: {what}", ""]
    lines += _text(parser)
    lines += _table(parser)
    for sub, inner in _subcommands(parser):
        lines += [f"**`lst {name} {sub}`**", "", *_text(inner), *_table(inner)]
    return "\n".join(lines)


def _text(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Description and examples: paragraphs as prose, what is laid out by hand as it is."""
    text = "\n\n".join(part.strip("\n") for part in (parser.description, parser.epilog) if part)
    text = text.partition(FIELDS)[0]
    first, _, rest = text.strip().partition("\n\n")
    if first:
        yield from (" ".join(first.split()), "")
    for paragraph in filter(str.strip, rest.split("\n\n")):
        laid_out = "   " in paragraph or any(line.startswith("  ") for line in paragraph.splitlines())
        yield from ("```text", paragraph.strip("\n"), "```", "") if laid_out else (paragraph.strip("\n"), "")


def _table(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Arguments and options with their meaning; nothing where a command has none of its own."""
    rows = [row for action in parser._actions if (row := _row(action, parser)) is not None]
    if rows:
        yield from ("| argument | meaning |", "|---|---|", *rows, "")


def _row(action: argparse.Action, parser: argparse.ArgumentParser) -> str | None:
    if isinstance(action, argparse._HelpAction | argparse._SubParsersAction) or DEBUG in action.option_strings:
        return None
    if action.help == argparse.SUPPRESS:
        return None
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices is not None else None
    value = action.metavar or choices or (action.dest.upper() if action.option_strings else action.dest)
    if isinstance(value, tuple):
        value = " ".join(value)
    takes = "" if action.nargs == 0 else f" {value}"
    form = ", ".join(action.option_strings) + takes if action.option_strings else str(value)
    more = " ..." if action.nargs in ("*", "+") else ""
    meaning = (action.help or "") % {**vars(action), "prog": parser.prog}
    needed = " **Required.**" if action.option_strings and action.required else ""
    prose = "`".join(
        part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(meaning.split("`"))
    )
    return f"| `{_cell(form + more)}` | {_cell(prose)}{needed} |"


def _cell(text: str) -> str:
    """On one line, without the sign that ends a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield name, inner
                yield from ((f"{name} {deeper}", parser) for deeper, parser in _subcommands(inner))
