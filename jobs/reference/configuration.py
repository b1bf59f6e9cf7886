"""Every field of the pipeline spec and of a training run, from the classes that read them; and the two pages of reference.

examples:
  lst configuration                 all of them
  lst configuration beam_size       those with this in their name or meaning
  lst configuration --write         docs/configuration.md, and docs/cli.md from the commands' parsers
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pydantic import BaseModel

from jobs.reference.commands import COMMANDS
from jobs.reference.parsers import as_section
from schemas.commands.cli import Parser, command, parser_of
from schemas.commands.reference import as_markdown, sections
from schemas.errors import ConfigError
from schemas.spec import PipelineSpec

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, COMMANDS_PAGE = DOCS / "configuration.md", DOCS / "cli.md"
TOP = """# Configuration

Two kinds of YAML files configure everything: a pipeline spec (`configs/*.yaml`, class `PipelineSpec`) and a training
run (`configs/train/*.yaml`, class `TrainConfig`, whose `model` is a file of `configs/model/`). Any field can be changed
on the command line by its dotted name: `stages.transcripts.beam_size=1`, `optimiser.lr=1e-3`. A key that does not exist
is an error that names the nearest one.

*changes results* says what a field is part of. **yes**: it enters the fingerprint of its stage (or the identity of a
run), so that changing it makes exactly what stands on it again. **by content**: what lies at the path counts, not the
path. **none**: results are the same for every value. A mark on a mapping holds for all inside it.

This page is written by `lst configuration --write`; a test holds it to the code.
"""
COMMANDS_TOP = """# Command line

`lst COMMAND ...` is the door to every command; each is also a script or a module, named below its title. All take `--help` and
`--debug` (the traceback of an error), and end with [one of six exit codes](commands.md). `KEY=VALUE` sets a field of a
[configuration](configuration.md).

This page is written by `lst configuration --write`; a test holds it to the code.
"""


def page() -> str:
    """The text of docs/configuration.md."""
    from model.training.config import TrainConfig

    return f"{TOP}\n## Pipeline spec\n\n{as_markdown(PipelineSpec)}\n## Training run\n\n{as_markdown(TrainConfig)}"


def commands_page() -> str:
    """The text of docs/cli.md."""
    text = COMMANDS_TOP
    for group, members in COMMANDS.items():
        sections = (
            as_section(name, module, what, parser_of(import_module(module).main))
            for name, (module, what) in members.items()
        )
        text += f"\n## {group[0].upper()}{group[1:]}\n\n" + "\n".join(sections)
    return text


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the fields asked for, or write both pages of reference."""
    parser = Parser(__doc__)
    parser.add_argument("word", nargs="?", default="", help="only fields that have this in their name or meaning")
    parser.add_argument("--write", action="store_true", help="write docs/configuration.md and docs/cli.md instead")
    given = parser.parse_args(arguments)
    if given.write:
        PAGE.write_text(page(), encoding="utf-8")
        COMMANDS_PAGE.write_text(commands_page(), encoding="utf-8")
        print(f"wrote {PAGE} and {COMMANDS_PAGE}")
        return 0
    from model.training.config import TrainConfig

    found = {
        title: matching(cls, given.word)
        for title, cls in (("pipeline spec", PipelineSpec), ("training run", TrainConfig))
    }
    if not any(found.values()):
        raise ConfigError(
            f"no field has {given.word!r} in its name or meaning", "without a word all fields are printed"
        )
    for title, lines in found.items():
        print("\n".join([f"{title}:", *(lines or ["  nothing with that name"])]))
    return 0


def matching(cls: type[BaseModel], word: str) -> list[str]:
    """Lines for the fields that have `word` in their name or meaning."""
    return [
        f"  {section.path + '.' if section.path else ''}{entry.name} = {entry.default}: {entry.type}. {entry.meaning}"
        for section in sections(cls)
        for entry in section.fields
        if word.lower() in f"{entry.name} {entry.meaning}".lower()
    ]


if __name__ == "__main__":
    sys.exit(main())
