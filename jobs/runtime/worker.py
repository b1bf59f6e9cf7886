"""One worker of one stage: reads by receipt, runs the stage on a partition, writes content-named files, commits.

On object storage a partition costs a stage these requests: one per table read, one or two written, one commit.
Nothing is listed or looked up: the driver knows what is committed, and a task carries what it needs to know.
"""

from __future__ import annotations

import errno
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib import import_module

from jobs.cluster.limits import Guard, limit_libraries
from jobs.monitoring.logs import LOG
from jobs.monitoring.work import receipt, tell, unit_of_work
from jobs.runtime.accounting import (
    check_complete,
    first_per_parent,
    keep_common_segments,
    key_of,
    parent_of,
    samples_by_key,
)
from jobs.runtime.isolation import Limits, run_isolated, run_rows
from jobs.runtime.job import MAX_DEATHS, AnyTask, Held, Job, PartitionTask, ShardTask, death_path, stop_path
from jobs.runtime.shard_writer import MakeApart, make_here, write_group
from jobs.runtime.stages import build_stage, check_models
from jobs.runtime.takeover import member_id, read_held, relabel
from jobs.store.labels import members_read
from jobs.store.provenance import gpu, provenance
from jobs.store.store import CorruptFileError, Store, table_path
from pipeline.source.audio import SourceAudio
from pipeline.source.base import AudioReader
from pipeline.source.partitions import has_rows
from pipeline.stage import Stage, StageResult
from schemas.arrow import Row, to_rows
from schemas.audio import SAMPLE_RATE
from schemas.commit import KINDS, Commit
from schemas.errors import StorageError
from schemas.tables import TABLES, InventoryItem, Recording, Reject, RejectCode

SEGMENT = re.compile(r"[0-9a-f]{16}-(c\d+-)?\d{10}-\d{10}")
TAKES_NO_MORE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}
"""Of errors in writing: the disk is full, or may not be written to any more."""
STOP_SECONDS = 5.0
"""How often a worker looks whether the run is to stop."""


class StageWorker:
    """Runs one stage, of one task at a time or, where what it computes is under a lock, of several."""

    def __init__(
        self,
        job: Job,
        stage: str,
        audio: AudioReader | None = None,
        computing: AbstractContextManager[object] | None = None,
        make_room: Callable[[], None] | None = None,
        most_bytes: int = 0,
    ) -> None:
        """`computing` is held while models work; `make_room` closes what else this process holds open; `most_bytes` is the memory
        that the process may take (0: any)."""
        self.job = job
        self.plan = job.stages[stage]
        self.store = Store(job.spec.output)
        self.labels = members_read(job.spec)[stage]
        limit_libraries(job.spec.resource(stage).threads)
        self._computing = nullcontext() if computing is None else computing
        self._make_room = self.close if make_room is None else make_room
        self._most_bytes = most_bytes
        self._stage = None if KINDS[stage].gathers else build_stage(stage, job.spec)
        if self._stage is None:
            import_module("webdataset.writer")  # seconds, which would otherwise be counted as work on the first shard
        self._is_open = False
        self._cards_written = False
        self._looked = float("-inf")
        self._stopping = False
        self.audio = SourceAudio(job.spec.source.uri) if audio is None else audio

    def do(self, task: AnyTask) -> None:
        """`work`, where neither the run is stopping nor the task was set aside."""
        if not task.failed and not self._stop():
            with unit_of_work(self.plan.name, self._unit(task)):
                try:
                    self.work(task)
                except (StorageError, CorruptFileError) as error:
                    task.failed = self._set_aside(error)
                    LOG.warning("set aside: %s", task.failed)
                except Exception as error:
                    # Rows are isolated in partitions: what is left concerns all of them. So does an output that takes no more.
                    if isinstance(task, PartitionTask) or getattr(error, "errno", None) in TAKES_NO_MORE:
                        raise
                    task.failed = f"the shard {task.name} could not be written: {type(error).__name__}: {error}"
                    LOG.exception("set aside: %s", task.failed)

    def _unit(self, task: AnyTask) -> str:
        return task.name if isinstance(task, ShardTask) else task.units[self.plan.name]

    def _stop(self) -> bool:
        if not self._stopping and time.monotonic() - self._looked > STOP_SECONDS:
            self._stopping = self.store.exists(stop_path(self.job.run_id))
            self._looked = time.monotonic()
        return self._stopping

    def _set_aside(self, error: Exception) -> str:
        """A table that cannot be read costs its partition in this run; a damaged one is moved away, so that the next makes it."""
        if isinstance(error, CorruptFileError):
            return self.store.set_aside(error.path, "has changed since it was committed")
        return str(error)

    def work(self, task: AnyTask) -> None:
        """Do what is to be done, if what it stands on is there."""
        if isinstance(task, ShardTask):
            task.commits.append(self._publish(self._write_shard(task)))
            return
        name = self.plan.name
        if name in task.receipts or any(above not in task.receipts for above in self.plan.upstream):
            return
        commit = self._run_stage(task)
        task.receipts[name] = commit.outputs[name].sha256
        task.commits.append(commit)

    def _write_shard(self, task: ShardTask) -> Commit:
        limits = Limits(seconds=self.job.spec.resource(self.plan.name).limit_seconds, most_bytes=self._most_bytes)
        if task.deaths < MAX_DEATHS:
            make = make_here(self.job, self.audio, limits, lambda code: self._note_death(task, code))
            return write_group(self.store, self.job, task, make)
        LOG.warning("%d workers were lost with this shard: making its samples in processes of their own", task.deaths)
        self._make_room()
        return write_group(self.store, self.job, task, MakeApart(self.job, limits))

    def _publish(self, commit: Commit) -> Commit:
        """The commit that stands: this one, or that of another worker who was first."""
        commit = commit.model_copy(update={"provenance": commit.provenance | receipt()})
        if not self._cards_written:
            for card in self.plan.cards:
                self.store.write_card(card)
            self._cards_written = True
        if self.store.publish(commit):
            tell(commit)
            return commit
        try:
            return self.store.read_commit(commit.stage, commit.fingerprint, commit.partition)
        except FileNotFoundError:  # another owner of the output has gathered it just now
            return self._publish(commit)
        except ValueError:  # damaged since the run listed the commits: this one takes its place
            path = self.store.commit_path(commit.stage, commit.fingerprint, commit.partition)
            LOG.warning("%s", self.store.set_aside(path, "is empty or damaged"))
            return self._publish(commit)

    @property
    def stage(self) -> Stage:
        """What works on a partition.

        Raises:
            RuntimeError: this worker writes shards.
        """
        if self._stage is None:
            raise RuntimeError(f"{self.plan.name} has no stage that works on partitions")
        return self._stage

    def close(self) -> None:
        """Release what the stage took; it is opened again where it is needed."""
        if self._stage is not None and self._is_open:
            self._stage.close()
            self._is_open = False

    # one partition ----------------------------------------------------------------------------------------------------

    def _run_stage(self, task: PartitionTask) -> Commit:
        inputs, tables = self._read_inputs(task)
        roots = self._roots(task, tables)
        taken, result = self._take_over(task, tables, roots)
        left = self._left(tables, taken, roots)
        with self._computing:
            computed, busy = self._compute(task, left)
        busy += sum(held.seconds_busy for held in taken)
        rows, rejects = [*result.rows, *computed.rows], [*result.rejects, *computed.rejects]
        members = {name: key for name, key in roots.items() if key}
        return self._commit(task, inputs, tables, StageResult(rows=rows, rejects=rejects), members, taken, busy)

    def _compute(self, task: PartitionTask, tables: Mapping[str, Sequence[Row]]) -> tuple[StageResult, float]:
        """The rows of what is left to be computed, and the seconds that it took."""
        name = self.plan.name
        if not tables[self.stage.inputs[0]]:
            return StageResult(rows=[]), 0.0
        deaths = task.deaths.get(name, 0)
        resources = self.job.spec.resource(name)
        if deaths >= MAX_DEATHS:
            LOG.warning("%d workers were lost with this partition: taking it apart", deaths)
            self._make_room()
            check_models(self.stage, self.plan.cards)
            start = time.perf_counter()
            limits = Limits(seconds=resources.limit_seconds, most_bytes=self._most_bytes)
            return run_isolated(self.job.spec, self.stage, tables, deaths, limits), time.perf_counter() - start
        if not self._is_open:
            begin = time.perf_counter()
            self.stage.open()  # seconds; not where all rows are taken over
            check_models(self.stage, self.plan.cards)  # after it: before, one could be replaced in between
            self._is_open = True
            LOG.info("opened in %.1f s", time.perf_counter() - begin)
        samples = samples_by_key(*tables.values())
        seconds = sum(samples.get(key_of(row), 0) for row in tables[self.stage.inputs[0]]) / SAMPLE_RATE
        start = time.perf_counter()
        with Guard(resources.limit_seconds(seconds), self._most_bytes, lambda code: self._note_death(task, code)):
            result = run_rows(self.stage, tables, self.audio, deaths)
        return result, time.perf_counter() - start

    def _note_death(self, task: AnyTask, code: RejectCode) -> None:
        path = death_path(self.job.run_id, self.plan.name, self._unit(task))
        self.store.write_bytes(path, code.encode())

    def _read_inputs(self, task: PartitionTask) -> tuple[dict[str, str], dict[str, Sequence[Row]]]:
        hashes: dict[str, str] = {}
        tables: dict[str, Sequence[Row]] = {}
        for table in self.stage.inputs:
            if table == InventoryItem.TABLE:
                tables[table] = task.items
            else:
                hashes[table] = task.receipts[table]
                tables[table] = self._read(table, task)
        return hashes, keep_common_segments(tables)

    def _read(self, table: str, task: PartitionTask) -> list[Row]:
        digest = task.receipts[table]
        row: type[Row] = TABLES[table]
        return to_rows(row, self.store.read_arrow(table_path(table, task.units[table], digest), digest))

    def _roots(self, task: PartitionTask, tables: Mapping[str, Sequence[Row]]) -> dict[str, str]:
        """Member id -> what its rows carry: the uri for recordings, else the recording id."""
        files = [item for item in task.items if has_rows(item)]
        if KINDS[self.plan.name].restates:
            return {member_id(item, self.labels): item.uri for item in files}
        recordings = tables.get(Recording.TABLE) or self._read(Recording.TABLE, task)
        ids = {row.uri: row.recording_id for row in recordings if isinstance(row, Recording)}
        return {member_id(item, self.labels): ids[item.uri] for item in files if item.uri in ids}

    def _take_over(
        self, task: PartitionTask, tables: Mapping[str, Sequence[Row]], roots: Mapping[str, str]
    ) -> tuple[list[Held], StageResult]:
        """Which commits gave rows, and these: of files whose every input row is accounted for there."""
        held_here = task.held.get(self.plan.name, ())
        if not held_here:
            return [], StageResult(rows=[])
        wanted: dict[str, set[str]] = {root: set() for root in roots.values()}
        for row in tables[self.stage.inputs[0]]:
            if _root(row) in wanted:
                wanted[_root(row)].add(key_of(row))
        items = {member_id(item, self.labels): item for item in task.items if has_rows(item)}
        taken: list[Held] = []
        rows: list[Row] = []
        rejects: list[Reject] = []
        for held in held_here:
            found = read_held(self.store, self.plan.name, held)
            if found is None:
                continue
            if KINDS[self.plan.name].restates:
                found = relabel(*found, items, held, self.job.spec.source.name)
            given: dict[str, set[str]] = {}
            for key in [*map(parent_of, found[0]), *(reject.id for reject in found[1] if not reject.part)]:
                given.setdefault(_root_name(key), set()).add(key)
            whole = {root for root in given if given[root] == wanted.get(root)}
            members = {name: key for name, key in held.members.items() if roots.get(name) in whole}
            taken.append(replace(held, members=members))
            rows += [row for row in found[0] if _root_name(parent_of(row)) in whole]
            rejects += [reject for reject in found[1] if _root_name(reject.id) in whole]
        return taken, StageResult(rows=rows, rejects=rejects)

    def _left(
        self, tables: dict[str, Sequence[Row]], taken: Sequence[Held], roots: Mapping[str, str]
    ) -> dict[str, Sequence[Row]]:
        """The input rows that are still to be computed, and those of the other tables that go with them."""
        if not taken:
            return tables
        first = self.stage.inputs[0]
        gone = {roots[name] for held in taken for name in held.members if name in roots}
        return tables | {first: [row for row in tables[first] if _root(row) not in gone]}

    def _commit(
        self,
        task: PartitionTask,
        inputs: dict[str, str],
        tables: Mapping[str, Sequence[Row]],
        result: StageResult,
        members: dict[str, str],
        taken: Sequence[Held],
        seconds: float,
    ) -> Commit:
        name, identity, unit = self.plan.name, self.plan.fingerprint, task.units[self.plan.name]
        rejected = {reject.id for reject in result.rejects if not reject.part}
        primary = {key_of(row) for row in tables[self.stage.inputs[0]]}
        check_complete(name, unit, primary, {parent_of(row) for row in result.rows}, rejected)
        outputs = {name: self.store.write_table(TABLES[name], list(result.rows), unit, identity)}
        if result.rejects:
            outputs["rejects"] = self.store.write_table(Reject, list(result.rejects), unit, identity)
        samples = samples_by_key(*tables.values(), result.rows)
        return self._publish(
            Commit(
                stage=name,
                fingerprint=identity,
                partition=unit,
                members=members,
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
                taken_over=sum(len(held.members) for held in taken),
                provenance=provenance(gpu()),
            )
        )


def _root(row: Row) -> str:
    """What an input row is taken over by: the uri of a file, else the recording."""
    return row.uri if isinstance(row, InventoryItem) else _root_name(key_of(row))


def _root_name(key: str) -> str:
    """The recording of a segment; other keys are their own. Only ids of segments look like this: a uri has a suffix."""
    return key[:16] if SEGMENT.fullmatch(key) else key
