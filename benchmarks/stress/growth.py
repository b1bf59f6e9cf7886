"""What a corpus that grows costs: work done again after a change, and bookkeeping over a million committed partitions.

CPU seconds and memory, not wall time. Tables are not on disk here: their listing is made up, and costs what the columns cost.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Measurement, main
from jobs.engine.run import Outcome
from jobs.gc import collect
from jobs.reporting.summary import format_plan, format_summary
from jobs.runtime.drive import write_spec
from jobs.runtime.plan import Plan, make_plan
from jobs.runtime.published import catalog_of
from jobs.runtime.shard_writer import BELIEF
from jobs.store.commit_folders import folder_of
from jobs.store.commit_log import ROW_GROUP
from jobs.store.commit_rows import COUNTS, SCHEMA
from jobs.store.provenance import provenance
from jobs.store.records import source_key
from jobs.store.store import Store
from pipeline.codebook.folder import kmeans_card, write_centroids
from pipeline.encode.base import build_encoder
from pipeline.source.known import SNAPSHOT
from pipeline.source.partitions import Inventory
from schemas.commit import KINDS
from schemas.config import parse_config
from schemas.spec import STAGES, MfccSpec, PipelineSpec
from schemas.storage.files import Files
from schemas.tables import InventoryItem, Reject

MINUTES, FILES = 30.0, 512

PARTITIONS = int(os.environ.get("PARTITIONS", 1_000_000))
"""Of the bookkeeping: `PARTITIONS=100000 python -m benchmarks.stress.growth` takes a tenth of the time."""

LISTINGS, CHUNK = "listings", 1 << 17
LISTING = pa.schema([("name", pa.string()), ("bytes", pa.int64())])
"""Columns of `Files.listing`."""


def item(uri: str, seconds: float) -> InventoryItem:
    """A file of 64 kbit/s."""
    return InventoryItem(
        uri=uri, bytes=int(seconds * 8000), probe=hashlib.sha256(uri.encode()).hexdigest(), seconds=seconds
    )


def growth() -> list[Measurement]:
    """Partitions that are new after a change. Rows of known files are taken over, so model work is the new file's alone."""
    rows = []
    for name, count, least, most in (("61 h of utterances", 20_000, 2, 20), ("2,144 h of chapters", 4_000, 300, 3600)):
        dice = random.Random(0)
        items = [item(f"spk{i // 100:05d}/utt{i:07d}.flac", dice.uniform(least, most)) for i in range(count)]
        known = set(Inventory.of(items, MINUTES, FILES).names.tolist())
        changes = {
            "one more at the front": [item("aaa/new.flac", 12.0), *items],
            "one more in the middle": [*items, item(f"spk{count // 200:05d}/zzz.flac", 12.0)],
            "one more at the end": [*items, item("zzz/new.flac", 12.0)],
            "one removed": items[: count // 2] + items[count // 2 + 1 :],
            "another licence": [entry.with_updates(license="CC0") for entry in items],
        }
        for change, changed in changes.items():
            cut = Inventory.of(changed, MINUTES, FILES)
            new = [number for number, unit in enumerate(cut.names.tolist()) if unit not in known]
            rows.append(
                Measurement(
                    name=f"{name}: {change}",
                    value=len(new),
                    unit="new partitions",
                    goal="<= 2",
                    holds=len(new) <= 2,
                )
            )
    return rows


def make_spec(folder: Path) -> PipelineSpec:
    """Any spec that needs no fetched model."""
    if (folder / "centroids").exists():
        return parse_config(PipelineSpec, document(folder), origin="benchmark")
    centroids = np.random.default_rng(0).normal(scale=20.0, size=(16, 39)).astype(np.float32)
    card = kmeans_card("bench", centroids, {"encoder": build_encoder(MfccSpec()).card().card_id})
    write_centroids(folder / "centroids", centroids, card)
    return parse_config(PipelineSpec, document(folder), origin="benchmark")


def document(folder: Path) -> dict[str, Any]:
    """The spec as a mapping."""
    return {
        "source": {"uri": str(folder / "audio")},
        "output": str(folder / "out"),
        "stages": {
            "transcripts": {"backend": "transcript"},
            "words": {"backend": "soundswallower"},
            "units": {"encoder": {"backend": "mfcc"}, "centroids": str(folder / "centroids")},
        },
        "kmeans": {"num_units": 16, "seed": 0},
    }


def inventory_table(count: int, first: int, seconds: float) -> pa.Table:
    """`count` files of so many seconds in an inventory as it is kept, from number `first` on."""
    numbers = range(first, first + count)
    table = pa.table(
        {
            "uri": [f"spk{i // 1000:06d}/book{i // 100:06d}/chapter_{i:09d}.flac" for i in numbers],
            "bytes": np.full(count, 14_000_000),
            "probe": [digest("probe", i)[:32] for i in numbers],
            "seconds": np.full(count, seconds),
            "stamp": [f"14000000:17{i:017d}" for i in numbers],
            "ends": [digest("probe", i)[:32] for i in numbers],
        }
    )
    columns = [
        table.column(entry.name) if entry.name in table.column_names else pa.nulls(count, entry.type)
        for entry in SNAPSHOT
    ]
    return pa.table(columns, names=SNAPSHOT.names).cast(SNAPSHOT)


def digest(*parts: object) -> str:
    """64 hex digits that no other parts give."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def write_inventory(spec: PipelineSpec, count: int, seconds: float) -> None:
    """The inventory of so many files of so many seconds, as `lst inventory` leaves it."""
    store = Store(spec.output)
    path = f"inventory/{source_key(spec.source)}-{'0' * 16}.parquet"
    store.write_layout()
    Path(store.path("inventory")).mkdir(parents=True)
    with pq.ParquetWriter(store.path(path), SNAPSHOT, compression="zstd") as writer:
        for start in range(0, count, CHUNK):
            writer.write_table(inventory_table(min(CHUNK, count - start), start, seconds))
    facts = {"table": path, "source": spec.source.uri, "files": count, "not_listed": "", "when": ""}
    store.write_bytes(f"inventory/{source_key(spec.source)}.json", json.dumps(facts).encode())


def commit_everything(plan: Plan, one_in: int) -> None:
    """A log for every stage, as a finished run leaves it, and the listings of the tables that it names; `one_in` as below."""
    store = plan.store
    Path(store.path(LISTINGS)).mkdir()
    rejects: list[str] = []
    for stage in STAGES:
        kind = KINDS[stage]
        folder, suffix = kind.folder, "tar" if kind.gathers else "parquet"
        log = folder_of(stage, plan.stages[stage].fingerprint)
        Path(store.path(log)).mkdir(parents=True)
        count, names = len(plan.units[stage]), []
        part = store.path(f"{log}/part.parquet")
        with pq.ParquetWriter(part, SCHEMA, compression="zstd") as writer:
            for start in range(0, count, CHUNK):
                units = [unit.decode() for unit in plan.units[stage][start : start + CHUNK].tolist()]
                table = commits_of(stage, units, start, folder, suffix, one_in)
                writer.write_table(table, row_group_size=ROW_GROUP)
                names += [path.rpartition("/")[2] for path in table.column("path").to_pylist()]
                rejects += [path.rpartition("/")[2] for path in table.column("rejects_path").drop_null().to_pylist()]
        with open(part, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        os.rename(part, store.path(f"{log}/part-{count}-{content[:16]}.parquet"))
        save_listing(store, folder, names)
    save_listing(store, "tables/rejects", rejects)


def save_listing(store: Store, folder: str, names: list[str]) -> None:
    """What a folder is said to hold."""
    table = pa.table([pa.array(names, pa.string()), pa.array([100] * len(names), pa.int64())], schema=LISTING)
    pq.write_table(table, store.path(f"{LISTINGS}/{folder.replace('/', '-')}.parquet"))


def commits_of(stage: str, units: list[str], first: int, folder: str, suffix: str, one_in: int) -> pa.Table:
    """Rows of a log with what real ones hold: their own hashes and times, one in so many with a reject."""
    count = len(units)
    hashes = [digest(stage, unit) for unit in units]
    rejected = np.arange(first, first + count) % one_in == 0
    columns: dict[str, Any] = {name: np.full(count, 60) for name in COUNTS}
    columns |= {"rows_in": 60 + rejected, "rows_rejected": rejected.astype(np.int64), "samples_rejected": rejected * 1}
    columns |= {"unit": units, "seconds_busy": np.full(count, 12.5), "taken_over": np.zeros(count, np.int64)}
    columns |= {
        "inputs": [json.dumps({above: digest(above, unit) for above in KINDS[stage].upstream[:2]}) for unit in units]
    }
    columns |= {"rejects_by_code": np.where(rejected, '{"no_speech": 1}', "{}")}
    sums = dict.fromkeys(("samples", "frames", "words", "patches", "audio_samples", *BELIEF), 6000)
    sums |= {"samples in language en": 1, "samples under ": 1, "recordings": 1} if KINDS[stage].gathers else {}
    columns |= {"sums": [json.dumps(sums if KINDS[stage].gathers else {})] * count}
    made = provenance()
    columns |= {
        "provenance": [json.dumps({**made, "when": f"{made['when']} {i}"}) for i in range(first, first + count)]
    }
    columns |= {"path": [f"{folder}/{unit}-{sha[:16]}.{suffix}" for unit, sha in zip(units, hashes, strict=True)]}
    columns |= {"sha256": hashes, "bytes": np.full(count, 100), "rows": np.full(count, 60)}
    some = [unit if bad else None for unit, bad in zip(units, rejected, strict=True)]
    columns |= {"rejects_path": [unit and f"tables/rejects/{unit}-{digest(unit)[:16]}.parquet" for unit in some]}
    columns |= {"rejects_sha256": [unit and digest(unit) for unit in some]}
    columns |= {name: [unit and 100 for unit in some] for name in ("rejects_bytes", "rejects_rows")}
    columns |= {"member_ids": [[unit] for unit in units], "member_keys": [[sha[:16]] for sha in hashes]}
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)


@contextmanager
def made_up_listings(store: Store) -> Iterator[None]:
    """`Files.listing` tells what was saved, and each table of rejects holds one: there are no tables."""
    honest, honest_rows = Files.listing, Store.read_table
    reject = Reject(
        stage="segments", id="a", code="no_speech", detail="no speech", retriable=False, attempts=1, seconds=1.0
    )

    def listing(self: Files, folder: str) -> pa.Table:
        path = store.path(f"{LISTINGS}/{folder.replace('/', '-')}.parquet")
        return pq.read_table(path, use_threads=False) if os.path.exists(path) else LISTING.empty_table()

    Files.listing = listing  # type: ignore[method-assign]
    Store.read_table = lambda self, row, output: [reject]  # type: ignore[method-assign,list-item]
    try:
        yield
    finally:
        Files.listing, Store.read_table = honest, honest_rows  # type: ignore[method-assign]


def set_up(spec: PipelineSpec, partitions: int, committed: bool, one_in: int = 100) -> None:
    """An output with an inventory of half-hour files and every stage done, one commit in so many with a reject; or an inventory
    of utterances alone."""
    write_inventory(spec, partitions, 1790.0 if committed else 12.0)
    if committed:
        commit_everything(make_plan(spec, recorded=True), one_in)


def dry_run(spec: PipelineSpec) -> str:
    """`tokenize_audio --dry-run`."""
    return format_plan(make_plan(spec, recorded=True))


def summary(spec: PipelineSpec) -> str:
    """The end of a run that had nothing to do: its plan, what it says, and the catalogue."""
    plan = make_plan(spec, recorded=True)
    assert plan.is_complete()
    deque(catalog_of(plan), maxlen=0)  # which is made as it is read
    return format_summary(Outcome(plan=plan, worked_on={}, seconds=1, start_up_seconds=0, stopped=False))


def garbage(spec: PipelineSpec) -> int:
    """`lst gc --dry-run`."""
    return len(collect(make_plan(spec, recorded=True), stale=False).files)


def stale(spec: PipelineSpec) -> int:
    """`lst gc --stale --dry-run`."""
    plan = make_plan(spec, recorded=True)
    write_spec(plan)
    return collect(plan, stale=True).num_commits


STEPS: dict[str, Callable[[PipelineSpec], object]] = {
    "dry run": dry_run,
    "summary": summary,
    "gc": garbage,
    "gc --stale": stale,
    "plan": lambda spec: len(make_plan(spec, recorded=True).partitions),
}


def alone(call: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """(CPU seconds, peak MiB) of a call in a process of its own, with what it imports."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, call, *arguments).result()


def _measure(call: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    call(*arguments)
    status = Path("/proc/self/status").read_text()
    return time.process_time(), int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def take_step(folder: Path, name: str) -> None:
    """One of STEPS over the output in a folder."""
    spec = make_spec(folder)
    with made_up_listings(Store(spec.output)):
        STEPS[name](spec)


def prepare_output(folder: Path, partitions: int, committed: bool) -> None:
    """`set_up` in a folder."""
    spec = make_spec(folder)
    with made_up_listings(Store(spec.output)):
        set_up(spec, partitions, committed)


def bookkeeping(
    what: str, partitions: int, names: Sequence[str], seconds: float, gibibytes: float
) -> list[Measurement]:
    """Each step over so many partitions or files."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        alone(prepare_output, Path(place), partitions, names[0] != "plan")
        for name in names:
            spent, peak = alone(take_step, Path(place), name)
            for value, unit, limit in ((spent, "CPU s", seconds), (peak, "MiB", gibibytes * 1024)):
                rows.append(
                    Measurement(
                        name=f"{partitions} {what}: {name}",
                        value=value,
                        unit=unit,
                        goal=f"<= {limit:g}",
                        holds=value <= limit,
                    )
                )
    return rows


def run() -> list[Measurement]:
    """All parts of the table."""
    return [
        *growth(),
        *bookkeeping("committed partitions", PARTITIONS, ["dry run", "summary", "gc", "gc --stale"], 60, 1),
        *bookkeeping("listed utterances", 10 * PARTITIONS, ["plan"], 300, 3),
    ]


if __name__ == "__main__":
    main(run, __doc__)
