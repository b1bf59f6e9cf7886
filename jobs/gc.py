"""Remove files of the store that no commit names: left by kills, or by specs that are no longer used.

Without --stale only files that no commit at all names go. With it, commits go first that no recorded spec of this output needs:
those of older settings, of files that are gone, of partitions cut otherwise. A slice of the source (source.pattern) is recorded
beside the whole, so what either needs stays. Refused while a run writes to the output.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.cluster.places import local_or_url
from jobs.runtime.cli import load_spec, spec_parser
from jobs.runtime.plan import Plan, make_plan, recorded_plan
from jobs.runtime.shard_index import FOLDER as PARTS
from jobs.store.commit_folders import Listed, folder_of, while_it_stands
from jobs.store.commit_log import CommitLog, is_among
from jobs.store.lease import owned
from jobs.store.records import SPEC_REMEDY, tables_on_record
from jobs.store.standing import NAMED, keys_of_names
from jobs.store.store import Store
from schemas.commands.cli import command
from schemas.commit import KINDS, SHARD_FOLDER, SHARDS
from schemas.config import ConfigError
from schemas.errors import DataError
from schemas.tables import TABLES

DAMAGED = (
    "run jobs/tokenize_audio.py with the spec that it is of, which sets it aside, or move it to damaged/ "
    "if that work is given up; then gc"
)
EXAMPLES = """  python jobs/gc.py --config configs/demo.yaml --dry-run
  python jobs/gc.py --config configs/demo.yaml --stale
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Remove, or with --dry-run list, what no commit names."""
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
    """What an output no longer needs, found before anything of it is removed."""

    commits: list[tuple[CommitLog, np.ndarray]] = field(default_factory=list)
    """Logs and the units in them (S16)."""
    files: list[str] = field(default_factory=list)
    bytes: int = 0

    @property
    def num_commits(self) -> int:
        """Over all logs."""
        return sum(len(units) for _, units in self.commits)

    def remove(self, store: Store) -> None:
        """Commits first: a file that a commit names is never missing."""
        for log, units in self.commits:
            log.drop(units)
        store.remove_all(self.files)


def collect(plan: Plan, stale: bool) -> Garbage:
    """What no commit names; with `stale`, also commits that no recorded spec needs, and what they alone name.

    Raises:
        ConfigError: the current spec is not complete, so what the older commits hold may still be all there is.
        DataError: some commits cannot be read, so nobody knows what they name.
    """
    if stale and not plan.is_complete():
        raise ConfigError("--stale wants a finished run of this spec first: run jobs/tokenize_audio.py")
    needed = needs(plan) if stale else None
    garbage = Garbage()
    logs: dict[str, list[CommitLog]] = {SHARDS: [], **{table: [] for table in TABLES}}
    for log, temporary in while_it_stands(plan.store, lambda listed: open_logs(plan.store, listed)):
        garbage.files += temporary
        logs.setdefault(log.stage, []).append(log)
    rejects: list[np.ndarray] = []
    for stage, its_logs in logs.items():
        named = [np.empty(0, np.uint64)]
        for log in its_logs:
            gone = np.empty(0, "S16") if needed is None else unneeded(log, needed.get(log.folder, []))
            if len(gone):
                garbage.commits.append((log, gone))
            files, its_rejects = named_by(log, gone)
            for path, why in log.damaged:
                raise DataError(f"{log.store.root}/{path} {why}, and the files that it names would be removed", DAMAGED)
            named.append(files)
            rejects.append(its_rejects)
        if stage != "rejects":
            _unnamed(plan.store, stage, np.sort(np.concatenate(named)), garbage)
    _unnamed(plan.store, "rejects", np.sort(np.concatenate([np.empty(0, np.uint64), *rejects])), garbage)
    garbage.files += [*_leftovers(plan.store), *_old_parts(plan.store)]
    return garbage


def unneeded(log: CommitLog, needed: Sequence[np.ndarray]) -> np.ndarray:
    """S16: the units of a log that are not among these."""
    left: np.ndarray = np.setdiff1d(log.units, np.concatenate([np.empty(0, "S16"), *needed]))
    return left


def named_by(log: CommitLog, but: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint64, uint64: the files that the commits of a log name, and those of their rejects; but not the commits of some units."""
    files, rejects = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    away = np.sort(log.find(but))
    stays = np.setdiff1d(log.find(log.units), away) if len(away) else np.sort(log.find(log.units))
    for table in log.select(stays, ["path", "rejects_path"]):
        for column, found in (("path", files), ("rejects_path", rejects)):
            found.append(keys_of_names(pc.replace_substring_regex(table.column(column).drop_null(), "^.*/", "")))
    return np.concatenate(files), np.concatenate(rejects)


def _unnamed(store: Store, stage: str, named: np.ndarray, garbage: Garbage) -> None:
    for folder in (KINDS[stage].folder,) if stage == SHARDS else (f"tables/{stage}", f"superseded/tables/{stage}"):
        for batch in store.listing(folder).to_batches():
            names = batch.column("name")
            gone = np.ones(len(names), bool)
            by_content = np.asarray(pc.match_substring_regex(names, NAMED))
            gone[by_content] = ~is_among(keys_of_names(names.filter(pa.array(by_content))), named)
            if stage == SHARDS:
                gone &= ~np.asarray(pc.match_substring_regex(names, r"^(index.*\.(json|md)|README\.md)$"))
            garbage.files += [f"{folder}/{name}" for name in names.filter(pa.array(gone)).to_pylist()]
            garbage.bytes += int(batch.column("bytes").to_numpy()[gone].sum())


def _old_parts(store: Store) -> list[str]:
    """Parts of shard indices that no index names."""
    parts = store.names(f"{SHARD_FOLDER}/{PARTS}")
    if not parts:
        return []
    indices = [name for name in store.names(SHARD_FOLDER) if name.startswith("index") and name.endswith(".json")]
    remedy = "run jobs/tokenize_audio.py again, which writes it anew"
    documents = [store.read_json(f"{SHARD_FOLDER}/{name}", remedy) for name in indices]
    named = {part["path"] for document in documents for part in document.get("parts", [])}
    return sorted(f"{SHARD_FOLDER}/{PARTS}/{name}" for name in parts if f"{PARTS}/{name}" not in named)


def _leftovers(store: Store) -> list[str]:
    """Attempt markers, temporary files, features of a fit that was ended, inventories that are not the latest of their source."""
    inventories = store.names("inventory")
    latest = tables_on_record(store)
    old = [
        f"inventory/{name}" for name in inventories if name.endswith(".parquet") and f"inventory/{name}" not in latest
    ]
    folders = ("cards", "specs")
    temporary = [f"{folder}/{name}" for folder in folders for name in store.names(folder) if name.endswith(".tmp")]
    return sorted(old) + temporary + store.find("attempts") + store.find("kmeans")


def open_logs(store: Store, listed: Listed) -> list[tuple[CommitLog, list[str]]]:
    """The logs of all folders of commits, whoever's they are, each with the temporary files in it."""
    logs = []
    for folder, names in listed.items():
        _, stage, fingerprint = folder.split("/")
        temporary = [f"{folder}/{name}" for name in names if name.endswith(".tmp")]
        logs.append((CommitLog(store, stage, fingerprint, names), temporary))
    return logs


def needs(plan: Plan) -> dict[str, list[np.ndarray]]:
    """Folder of commits -> the units in it that a recorded spec needs, this one among them."""
    found: dict[str, list[np.ndarray]] = {}

    def add(stages: dict[str, str], units: dict[str, np.ndarray]) -> None:
        for stage, fingerprint in stages.items():
            found.setdefault(folder_of(stage, fingerprint), []).append(units[stage])

    add({name: stage.fingerprint for name, stage in plan.stages.items()}, plan.units)
    for name in sorted(name for name in plan.store.names("specs") if name.endswith(".json")):  # a kill leaves .tmp
        record = plan.store.read_json(f"specs/{name}", SPEC_REMEDY)
        add(record["stages"], recorded_plan(plan.store, record).units)
    return found


if __name__ == "__main__":
    sys.exit(main())
