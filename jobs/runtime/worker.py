"""One worker of one stage: reads through commits, runs the stage on a partition, writes content-named files, commits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from jobs.runtime.accounting import (
    check_complete,
    first_per_parent,
    keep_common_segments,
    key_of,
    parent_of,
    samples_by_key,
)
from jobs.runtime.isolation import run_isolated, run_rows
from jobs.runtime.job import Job, stop_path
from jobs.runtime.limits import Watchdog, limit_threads
from jobs.runtime.plan import inventory_fingerprint
from jobs.runtime.shard_writer import write_group
from jobs.runtime.stages import build_stage
from jobs.runtime.store import Store
from pipeline.source.audio import SourceAudio
from pipeline.stage import Stage, StageResult
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.commit import Commit
from schemas.tables import TABLES

MAX_ATTEMPTS = 2
"""A partition that took its worker down this often in one run is taken apart to find the row that does it."""


class StageWorker:
    """Runs one stage. Ray Data makes one per actor and calls it with one partition at a time."""

    def __init__(self, job: Job, stage: str):
        self.job = job
        self.plan = job.stages[stage]
        self.store = Store(job.spec.output)
        limit_threads(job.spec.resource(stage).threads)
        self.stage: Stage | None = None if stage == "shards" else build_stage(stage, job.spec)
        if self.stage is None:
            import_module("webdataset.writer")  # seconds, which would otherwise be counted as work on the first shard
        else:
            self.stage.open()
        self.audio = SourceAudio(job.spec.source.uri)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Commit the partition unless it is committed; pass the row on, with its name alone: data stays in the store."""
        if not self.store.exists(stop_path(self.job.run_id)):
            self.work(str(row["partition"]))
        return row

    def work(self, partition: str) -> None:
        """Do what is to be done for a partition, if what it stands on is there."""
        name = self.plan.name
        if name == "shards":
            for group, members in self.job.groups.items():
                if partition in members and self._ready(members) and not self._committed(group):
                    self._publish(write_group(self.store, self.job, group, members, self.audio))
        elif not self._committed(partition) and self._ready((partition,)):
            self._publish(self._run_stage(partition))

    def _committed(self, unit: str) -> bool:
        return self.store.exists(self.store.commit_path(self.plan.name, self.plan.fingerprint, unit))

    def _ready(self, partitions: Sequence[str]) -> bool:
        return all(
            self.store.exists(self.store.commit_path(above, self.job.stages[above].fingerprint, partition))
            for above in self.plan.upstream
            for partition in partitions
        )

    def _publish(self, commit: Commit) -> None:
        for card in self.plan.cards:
            self.store.write_card(card)
        self.store.publish(commit)
        for name in self._attempts(commit.partition):
            self.store.remove(f"{self._attempt_folder()}/{name}")

    # one partition ----------------------------------------------------------------------------------------------------

    def _run_stage(self, partition: str) -> Commit:
        assert self.stage is not None
        start = time.perf_counter()
        inputs, tables = self._read_inputs(partition)
        attempts = len(self._attempts(partition))
        limit = self.job.spec.resource(self.plan.name).timeout_minutes * 60
        if attempts >= MAX_ATTEMPTS:
            result = run_isolated(self.job.spec, self.stage, tables, attempts, limit)
        else:
            marker = f"{self._attempt_folder()}/{partition}.{self.job.run_id}.{attempts}"
            self.store.write_bytes(marker, b"")
            with Watchdog(limit):
                result = run_rows(self.stage, tables, self.audio, attempts)
        return self._commit(partition, inputs, tables, result, time.perf_counter() - start)

    def _attempt_folder(self) -> str:
        return f"attempts/{self.plan.name}/{self.plan.fingerprint[:16]}"

    def _attempts(self, partition: str) -> list[str]:
        """Markers of this run alone: killing the driver says nothing about the partition."""
        prefix = f"{partition}.{self.job.run_id}."
        return sorted(name for name in self.store.names(self._attempt_folder()) if name.startswith(prefix))

    def _read_inputs(self, partition: str) -> tuple[dict[str, str], dict[str, Sequence[Row]]]:
        assert self.stage is not None
        hashes: dict[str, str] = {}
        tables: dict[str, Sequence[Row]] = {}
        for table in self.stage.inputs:
            commit = self.read_commit(table, partition)
            output = commit.outputs[table]
            hashes[table] = output.sha256
            row: type[Row] = TABLES[table]
            tables[table] = self.store.read_table(row, output)
        return hashes, keep_common_segments(tables)

    def read_commit(self, table: str, partition: str) -> Commit:
        """The commit that holds a table's partition."""
        fingerprint = inventory_fingerprint() if table == "inventory" else self.job.stages[table].fingerprint
        return self.store.read_commit(table, fingerprint, partition)

    def _commit(
        self,
        partition: str,
        inputs: dict[str, str],
        tables: Mapping[str, Sequence[Row]],
        result: StageResult,
        seconds: float,
    ) -> Commit:
        assert self.stage is not None
        name, identity = self.plan.name, self.plan.fingerprint
        rejected = {reject.id for reject in result.rejects if not reject.part}
        primary = {key_of(row) for row in tables[self.stage.inputs[0]]}
        check_complete(name, partition, primary, {parent_of(row) for row in result.rows}, rejected)
        outputs = {name: self.store.write_table(TABLES[name], list(result.rows), partition, identity)}
        if result.rejects:
            outputs["rejects"] = self.store.write_table(TABLES["rejects"], list(result.rejects), partition, identity)
        samples = samples_by_key(*tables.values(), result.rows)
        return Commit(
            stage=name,
            fingerprint=identity,
            partition=partition,
            inputs=inputs,
            outputs=outputs,
            rows_in=len(primary),
            rows_out=len(primary) - len(rejected),
            rows_rejected=len(rejected),
            rejects_by_code=dict(sorted(Counter(reject.code for reject in result.rejects).items())),
            samples_in=sum(samples.get(key, 0) for key in primary),
            samples_out=sum(samples.get(key_of(row), 0) for row in first_per_parent(result.rows)),
            samples_rejected=round(sum(reject.seconds for reject in result.rejects) * SAMPLE_RATE),
            seconds_busy=seconds,
        )
