"""Remove files of the store that no commit names: left by kills, or by specs that are no longer used.

Without --stale only files that no commit at all names go. With it, commits go first that no recorded spec of this output needs:
those of older settings, of files that are gone, of partitions cut otherwise. A slice of the source (source.pattern) is recorded
beside the whole, so what either needs stays. Refused while a run writes to the output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.cluster.places import local_or_url
from jobs.runtime.cli import load_spec, spec_parser
from jobs.runtime.plan import Plan, make_plan, recorded_plan
from jobs.store.commit_log import CommitLog, folder_of, list_commits
from jobs.store.lease import owned
from jobs.store.store import Store
from schemas.commands.cli import command
from schemas.config import ConfigError
from schemas.tables import TABLES

EXAMPLES = """  python jobs/gc.py --config configs/demo.yaml --dry-run
  python jobs/gc.py --config configs/demo.yaml --stale
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = spec_parser(__doc__, EXAMPLES)
    parser.add_argument("--dry-run", action="store_true", help="say what would go and remove nothing")
    parser.add_argument("--stale", action="store_true", help="also commits that no recorded spec needs")
    given = parser.parse_args(arguments)
    spec = load_spec(given)
    if given.dry_run:
        garbage = collect(make_plan(spec, recorded=True), given.stale)
    else:
        with owned(Store(spec.output), f"gc --config {given.config}"):
            plan = make_plan(spec, recorded=True)
            garbage = collect(plan, given.stale)
            garbage.remove(plan.store)
    verb = "would remove" if given.dry_run else "removed"
    print(
        f"{local_or_url(spec.output)}: {verb} {garbage.num_commits} commits and {len(garbage.files)} files, "
        f"{garbage.bytes / 1e6:.1f} MB"
    )
    return 0


@dataclass(kw_only=True)
class Garbage:
    """What is to go."""

    commits: list[tuple[CommitLog, pa.Array]] = field(default_factory=list)
    """Logs and the units in them."""
    files: list[str] = field(default_factory=list)
    bytes: int = 0

    @property
    def num_commits(self) -> int:
        """How many commits."""
        return sum(len(units) for _, units in self.commits)

    def remove(self, store: Store) -> None:
        """Commits first: a file that a commit names is never missing."""
        for log, units in self.commits:
            log.drop(units.to_pylist())
        store.remove_all(self.files)


def collect(plan: Plan, stale: bool) -> Garbage:
    """What no commit names; with `stale`, also commits that no recorded spec needs, and what they alone name.

    Raises:
        ConfigError: the current spec is not complete, so what the older commits hold may still be all there is.
    """
    garbage = Garbage()
    if stale and not plan.is_complete():
        raise ConfigError("--stale wants a finished run of this spec first: run jobs/tokenize_audio.py")
    needed = needs(plan) if stale else None
    named: dict[str, list[pa.Array]] = {}
    for folder, names in list_commits(plan.store).items():
        garbage.files += [f"{folder}/{name}" for name in names if name.endswith(".tmp")]
        log = open_log(plan.store, folder, names)
        table = log.read(["path", "rejects_path"])
        if needed is not None:
            gone = pc.invert(pc.is_in(table.column("unit"), needed.get(folder, pa.array([], pa.string()))))
            units = table.column("unit").filter(gone).combine_chunks()
            if len(units):
                garbage.commits.append((log, units))
            table = table.filter(pc.invert(gone))
        for column, place in (("path", folder.split("/")[1]), ("rejects_path", "rejects")):
            named.setdefault(place, []).append(table.column(column).drop_null().combine_chunks())
    for folder, paths in _folders():
        known = pa.concat_arrays([pa.array([], pa.string()), *named.get(paths, [])])
        _unnamed(plan.store, folder, known, garbage)
    garbage.files += _leftovers(plan.store)
    return garbage


def _folders() -> Iterator[tuple[str, str]]:
    yield "shards", "shards"
    for table in TABLES:
        yield f"tables/{table}", table
        yield f"superseded/tables/{table}", table


def _unnamed(store: Store, folder: str, named: pa.Array, garbage: Garbage) -> None:
    files = store.listing(folder)
    paths = pc.binary_join_element_wise(folder.removeprefix("superseded/"), files.column("name"), "/")
    index = pc.match_substring_regex(files.column("name"), r"^(index.*\.(json|md)|README\.md)$")
    gone = pc.and_(pc.invert(pc.is_in(paths, named)), pc.invert(pc.and_(index, folder == "shards")))
    garbage.files += [f"{folder}/{name}" for name in files.column("name").filter(gone).to_pylist()]
    garbage.bytes += pc.sum(files.column("bytes").filter(gone)).as_py() or 0


def _leftovers(store: Store) -> list[str]:
    """Attempt markers, temporary files, and inventories that are not the latest of their source."""
    inventories = store.names("inventory")
    latest = {
        json.loads(store.read_bytes(f"inventory/{name}"))["table"] for name in inventories if name.endswith(".json")
    }
    old = [
        f"inventory/{name}" for name in inventories if name.endswith(".parquet") and f"inventory/{name}" not in latest
    ]
    temporary = [f"cards/{name}" for name in store.names("cards") if name.endswith(".tmp")]
    return sorted(old) + temporary + store.find("attempts")


def open_log(store: Store, folder: str, names: list[str]) -> CommitLog:
    """The log of a folder of commits, whoever's it is."""
    _, stage, fingerprint = folder.split("/")
    return CommitLog(store, stage, fingerprint, names)


def needs(plan: Plan) -> dict[str, pa.Array]:
    """Folder of commits -> the units in it that a recorded spec needs, this one among them."""
    found: dict[str, list[pa.Array]] = {}

    def add(stages: dict[str, str], units: dict[str, object]) -> None:
        for stage, fingerprint in stages.items():
            found.setdefault(folder_of(stage, fingerprint), []).append(pa.array(units[stage]).cast(pa.string()))

    add({name: stage.fingerprint for name, stage in plan.stages.items()}, dict(plan.units))
    for name in sorted(plan.store.names("specs")):
        record = json.loads(plan.store.read_bytes(f"specs/{name}"))
        add(record["stages"], dict(recorded_plan(plan.store, record).units))
    return {folder: pa.concat_arrays(units) for folder, units in found.items()}


if __name__ == "__main__":
    sys.exit(main())
