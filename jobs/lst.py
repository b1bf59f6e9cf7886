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

from jobs.reference.commands import COMMANDS, MODULES
from schemas.commands.cli import Parser, command
from schemas.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


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
    sys.argv[1:] = _completed() or sys.argv[1:]
    return main()


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
