"""What a corpus that grows costs: work done again after a change, and bookkeeping over a million committed partitions.

CPU seconds and memory, not wall time. Tables are not on disk here: their listing is made up, and costs what the columns cost.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Row, main
from jobs.gc import collect
from jobs.reporting.summary import format_plan, format_summary
from jobs.runtime.plan import Plan, cut_groups, hop_of, name_units, plan_stages, refresh
from jobs.runtime.run import Outcome
from jobs.store.commit_log import COUNTS, JSONS, SCHEMA, folder_of
from jobs.store.store import Store
from pipeline.codebook.folder import kmeans_card, write_centroids
from pipeline.encode.base import build_encoder
from pipeline.source.partitions import ITEM, Inventory
from schemas.config import parse_config
from schemas.spec import STAGES, MfccSpec, PipelineSpec
from schemas.storage.files import LISTING, Files
from schemas.tables import InventoryItem

MINUTES, FILES = 30.0, 512

PARTITIONS = int(os.environ.get("PARTITIONS", 1_000_000))
"""Of the bookkeeping: `PARTITIONS=100000 python -m benchmarks.stress.growth` takes a tenth of the time."""


def item(uri: str, seconds: float) -> InventoryItem:
    """A file of 64 kbit/s."""
    return InventoryItem(
        uri=uri, bytes=int(seconds * 8000), probe=hashlib.sha256(uri.encode()).hexdigest(), seconds=seconds
    )


def growth() -> list[Row]:
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
                Row(
                    name=f"{name}: {change}",
                    value=len(new),
                    unit="new partitions",
                    goal="<= 2",
                    holds=len(new) <= 2,
                )
            )
    return rows


def files(count: int) -> pa.Table:
    """An inventory of half-hour files, as columns."""
    table = pa.table(
        {
            "uri": [f"spk{i // 1000:06d}/book{i // 100:06d}/chapter_{i:09d}.flac" for i in range(count)],
            "bytes": np.full(count, 14_000_000),
            "probe": [hashlib.sha256(b"%d" % i).hexdigest()[:32] for i in range(count)],
            "seconds": np.full(count, 1790.0),
        }
    )
    for column in ITEM:
        if column.name not in table.column_names:
            table = table.append_column(column.name, pa.nulls(count, column.type))
    return table


def measured(name: str, call: Callable[[], object], limit: float) -> tuple[Row, object]:
    """CPU seconds of a call, and the peak memory of the process so far in its name."""
    start = time.process_time()
    result = call()
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = Row(
        name=f"{name} (peak {peak:.0f} MiB)", value=seconds, unit="CPU s", goal=f"<= {limit:g}", holds=seconds <= limit
    )
    return row, result


def make_spec(folder: Path) -> PipelineSpec:
    """Any spec that needs no fetched model."""
    centroids = np.random.default_rng(0).normal(scale=20.0, size=(16, 39)).astype(np.float32)
    card = kmeans_card("bench", centroids, {"encoder": build_encoder(MfccSpec()).card().card_id})
    write_centroids(folder / "centroids", centroids, card)
    document = {
        "source": {"uri": str(folder / "audio")},
        "output": str(folder / "out"),
        "stages": {
            "transcripts": {"backend": "transcript"},
            "words": {"backend": "soundswallower"},
            "units": {"encoder": {"backend": "mfcc"}, "centroids": str(folder / "centroids")},
        },
        "kmeans": {"num_units": 16, "seed": 0},
    }
    return parse_config(PipelineSpec, document, origin="benchmark")


def commit_everything(plan: Plan) -> dict[str, pa.Table]:
    """A log for every stage, as a finished run leaves it; the listings of the tables that it names."""
    listings = {}
    for stage in STAGES:
        units = pa.array(plan.units[stage]).cast(pa.string()).to_pylist()
        folder, suffix = ("shards", "tar") if stage == "shards" else (f"tables/{stage}", "parquet")
        names = [f"{unit}-{'0' * 16}.{suffix}" for unit in units]
        count = len(units)
        columns: dict[str, object] = {name: np.full(count, int("rejected" not in name)) for name in COUNTS}
        columns |= {name: ["{}"] * count for name in JSONS}
        columns |= {"unit": units, "seconds_busy": np.full(count, 12.5), "path": [f"{folder}/{name}" for name in names]}
        columns |= {"sha256": ["0" * 64] * count, "bytes": np.full(count, 100), "rows": np.full(count, 1)}
        columns |= {
            name: pa.nulls(count, SCHEMA.field(name).type)
            for name in SCHEMA.names
            if name.startswith("rejects_") and name not in JSONS
        }
        columns |= {name: [[unit] for unit in units] for name in ("member_ids", "member_keys")}
        table = pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=1 << 16)
        path = f"{folder_of(stage, plan.stages[stage].fingerprint)}/part-{count}-{'0' * 16}.parquet"
        plan.store.write_bytes(path, buffer.getvalue())
        listings[folder] = pa.table({"name": names, "bytes": np.full(count, 100)}, schema=LISTING)
    return listings


def bookkeeping(partitions: int) -> list[Row]:
    """A plan, its dry run, summary and gc over so many committed partitions."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        spec = make_spec(Path(place))
        row, inventory = measured(
            f"cut and name {partitions} files", lambda: Inventory(files(partitions), MINUTES, FILES), 60
        )
        assert isinstance(inventory, Inventory)
        rows.append(row)
        stages = plan_stages(spec, STAGES)
        cuts = cut_groups(inventory, spec.stages.shards, hop_of(stages))
        plan = Plan(spec=spec, store=Store(spec.output), partitions=inventory, stages=stages, group_cuts=cuts)
        plan.units = name_units(spec, inventory, cuts, stages)
        listings = commit_everything(plan)
        honest = Files.listing
        Files.listing = lambda self, folder: listings.get(folder, LISTING.empty_table())  # type: ignore[method-assign]
        try:
            for name, call in (
                ("look up what is committed", lambda: refresh(plan)),
                ("dry run", lambda: format_plan(plan)),
                (
                    "summary",
                    lambda: format_summary(
                        Outcome(plan=plan, worked_on={}, seconds=1, start_up_seconds=0, stopped=False)
                    ),
                ),
                ("gc", lambda: collect(plan, stale=False)),
            ):
                rows.append(measured(f"{len(plan.partitions)} partitions: {name}", call, 60)[0])
            assert plan.is_complete()
        finally:
            Files.listing = honest  # type: ignore[method-assign]
    return rows


def run() -> list[Row]:
    """Both parts of the table."""
    return growth() + bookkeeping(PARTITIONS)


if __name__ == "__main__":
    main(run, __doc__)
