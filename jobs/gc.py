"""Remove files of the store that no commit names: left by kills, or by specs that are no longer used.

Without --stale only files that no commit at all names go. With it, commits of other specs than this one go first, so that
what they alone named goes too. Never run it while a job writes to the same output.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.runtime.cli import load_spec, spec_parser
from jobs.runtime.places import local_or_url
from jobs.runtime.plan import Plan, inventory_fingerprint, make_plan
from jobs.runtime.store import Store
from schemas.cli import command
from schemas.commit import Commit
from schemas.config import ConfigError

EXAMPLES = """  python jobs/gc.py --config configs/demo.yaml --dry-run
  python jobs/gc.py --config configs/demo.yaml --stale
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = spec_parser(__doc__, EXAMPLES)
    parser.add_argument("--dry-run", action="store_true", help="say what would go and remove nothing")
    parser.add_argument("--stale", action="store_true", help="also what only other specs' commits name")
    given = parser.parse_args(arguments)
    plan = make_plan(load_spec(given))
    stale = stale_commits(plan) if given.stale else []
    garbage = stale + unnamed_files(plan.store, ignoring=set(stale))
    sizes = {path: int(plan.store.fs.size(plan.store.path(path))) for path in garbage}
    for path in garbage:
        if not given.dry_run:
            plan.store.remove(path)
    verb = "would remove" if given.dry_run else "removed"
    print(f"{local_or_url(plan.spec.output)}: {verb} {len(garbage)} files, {sum(sizes.values()) / 1e6:.1f} MB")
    return 0


def stale_commits(plan: Plan) -> list[str]:
    """Commits of other fingerprints than the plan's, or of partitions that it does not have.

    Raises:
        ConfigError: the current spec is not complete, so what the older commits hold may still be all there is.
    """
    if not plan.is_complete():
        raise ConfigError("--stale wants a finished run of this spec first: run jobs/tokenize_audio.py")
    keep = {
        plan.store.commit_path(name, stage.fingerprint, unit)
        for name, stage in plan.stages.items()
        for unit in plan.units_of_work(name)
    }
    keep |= {plan.store.commit_path("inventory", inventory_fingerprint(), item.name) for item in plan.partitions}
    return [path for path in list_files(plan.store, "commits") if path not in keep]


def unnamed_files(store: Store, ignoring: set[str]) -> list[str]:
    """Tables and shards that no commit names (but those in `ignoring`), attempt markers and temporary files."""
    named = {"shards/index.json"}
    for path in list_files(store, "commits"):
        if path not in ignoring and path.endswith(".json"):
            commit = Commit.model_validate_json(store.read_bytes(path))
            named |= {output.path for output in commit.outputs.values()}
    files = list_files(store, "tables") + list_files(store, "shards")
    leftovers = [path for path in list_files(store, "commits") + list_files(store, "cards") if path.endswith(".tmp")]
    return [path for path in files if path not in named] + leftovers + list_files(store, "attempts")


def list_files(store: Store, folder: str) -> list[str]:
    """Every file below a folder of the store, relative to its root."""
    root = store.path("")
    return sorted(str(path).removeprefix(root) for path in store.fs.find(store.path(folder)))


if __name__ == "__main__":
    sys.exit(main())
