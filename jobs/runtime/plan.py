"""The plan: which stages, which partitions, what is committed already, what is left to do. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from jobs.runtime.stages import identify, unit_tokenizer_of, upstream_of
from jobs.store.commit_folders import Listed, folder_of, while_it_stands
from jobs.store.commit_log import CommitLog
from jobs.store.labels import labels_read
from jobs.store.provenance import VERSIONS
from jobs.store.records import read_inventory, refresh_inventory
from jobs.store.standing import Listings, standing
from jobs.store.store import Store
from pipeline.source.partitions import SCALE, Inventory, cut_by_content
from pipeline.source.probe import LookMany
from schemas.audio import SAMPLE_RATE
from schemas.cards import Card
from schemas.commit import KINDS, SHARDS, Commit, stage_fingerprint
from schemas.config import ConfigError
from schemas.spec import PipelineSpec, ShardsSpec
from schemas.tables import InventoryItem, Units

FLAC_BYTES_PER_SECOND = 17_000
"""Of speech at 16 kHz: somewhat more than half of its 32,000 bytes of PCM. For estimates alone, as the next."""
TEXT_BYTES_PER_SECOND = 400
"""Words, characters, patches and tar headers of a second of speech in a shard, about."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """A stage with its identity: `fingerprint` changes with whatever may change the stage's results."""

    name: str
    fingerprint: str
    cards: tuple[Card, ...]
    upstream: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ShardGroup:
    """A shard to be: the partitions [start, stop)."""

    name: str
    start: int
    stop: int


@dataclass(kw_only=True)
class Plan:
    """What is to be done. Units of work are numbered as the partitions (for `shards`: the groups) are."""

    spec: PipelineSpec
    store: Store
    partitions: Inventory
    stages: dict[str, StagePlan]
    group_cuts: np.ndarray
    """int64 [groups + 1]: shard g holds the partitions [cuts[g], cuts[g + 1])."""
    units: dict[str, np.ndarray] = field(default_factory=dict)
    """Stage -> names of its units, S16."""
    logs: dict[str, CommitLog] = field(default_factory=dict)
    done: dict[str, np.ndarray] = field(default_factory=dict)
    """Stage -> whether each unit's commit stands."""
    not_listed: str = ""
    """Files of the source that are not in the inventory, counted by what they are: "4 .webm, 2 .aiff"."""
    is_sample: bool = False
    """Of files drawn from the source: such a plan is not kept on record as what the output is of."""
    damaged: list[str] = field(default_factory=list)
    """Sentences on files that are there but cannot be used; their units are to be done again."""

    @property
    def groups(self) -> list[ShardGroup]:
        """The shards to be, in order."""
        names = self.units_of_work(SHARDS)
        return [
            ShardGroup(name=name, start=int(start), stop=int(stop))
            for name, start, stop in zip(names, self.group_cuts, self.group_cuts[1:], strict=False)
        ]

    def unit(self, stage: str, number: int) -> str:
        """What a unit of a stage is called, by its number; names are kept as bytes, for there may be millions."""
        return bytes(self.units[stage][number]).decode()

    def units_of_work(self, stage: str) -> list[str]:
        """The names of all units of a stage, in order."""
        return [name.decode() for name in self.units[stage].tolist()]

    def pending(self, stage: str) -> list[int]:
        """The numbers of a stage's units that are still to be done, in order."""
        return [int(number) for number in np.flatnonzero(~self.done[stage])]

    def is_complete(self) -> bool:
        """Whether every planned stage is committed everywhere."""
        return all(bool(self.done[stage].all()) for stage in self.stages)

    def audio_hours(self) -> float:
        """Hours of audio by the headers of the inventory."""
        return float(self.partitions.seconds.sum()) / 3600

    def unit_hours(self, stage: str) -> np.ndarray:
        """Hours of audio of each unit, by the headers."""
        hours: np.ndarray = self.partitions.partition_seconds / 3600
        return np.add.reduceat(hours, self.group_cuts[:-1]) if KINDS[stage].gathers else hours

    def group_of(self, partition: int) -> int:
        """The number of the shard that a partition belongs to."""
        return int(np.searchsorted(self.group_cuts, partition, side="right")) - 1

    def commit(self, stage: str, number: int) -> Commit:
        """The commit of a unit.

        Raises:
            KeyError: the unit is not committed.
        """
        for commit in self.logs[stage].commits([self.unit(stage, number)]):
            return commit
        raise KeyError(f"{stage}/{self.unit(stage, number)}")

    def rows(self, stage: str, among: np.ndarray | None = None) -> np.ndarray:
        """int64: where in the stage's log the commits stand of its units that are done, or of those that `among` marks too.

        In the order of the units, each once: units that hold nothing are called alike.
        """
        chosen = self.done[stage] if among is None else self.done[stage] & among
        rows = self.logs[stage].find(self.units[stage][chosen])
        _, first = np.unique(rows, return_index=True)
        ordered: np.ndarray = rows[np.sort(first)]
        return ordered

    def rows_with_rejects(self, stage: str) -> np.ndarray:
        """As `rows`, of those commits alone that have rejects, which are few among many; of a part of a row too, which counts
        among no rows."""
        rows, log = self.rows(stage), self.logs[stage]
        counts = [pc.fill_null(table.column("rejects_rows"), 0).to_numpy() for table in log.written(["rejects_rows"])]
        with_some: np.ndarray = rows[np.concatenate(counts)[rows] > 0]
        return with_some

    def commits(self, stage: str, with_rejects: bool = False) -> Iterator[Commit]:
        """The commits of a stage that stand, in order; or those of them that have rejects."""
        return self.logs[stage].commits_in(self.rows_with_rejects(stage) if with_rejects else self.rows(stage))


def make_plan(
    spec: PipelineSpec, until: str = SHARDS, recorded: bool = False, look_many: LookMany | None = None
) -> Plan:
    """The plan of the source as it is, or with `recorded` as it was when it was last listed: no file of it is then looked at.

    New files are looked into by `look_many` where it is given.

    Raises:
        ConfigError: the source is missing or holds no audio, a model is missing, or nothing was listed yet.
    """
    store = Store(spec.output)
    store.check_layout()
    if recorded:
        table, not_listed = read_inventory(store, spec.source)
    else:
        table, not_listed = refresh_inventory(store, spec.source, look_many)
    plan = plan_inventory(spec, Inventory(table, spec.partitions.minutes, spec.partitions.files), until)
    plan.not_listed = not_listed
    return plan


def plan_items(spec: PipelineSpec, items: Sequence[InventoryItem], until: str) -> Plan:
    """The plan for these files of the source.

    Raises:
        ConfigError: a model is missing.
    """
    Store(spec.output).check_layout()
    return plan_inventory(spec, Inventory.of(items, spec.partitions.minutes, spec.partitions.files), until)


def plan_inventory(spec: PipelineSpec, inventory: Inventory, until: str) -> Plan:
    """The plan for an inventory, with what is committed looked up."""
    stages = plan_stages(spec, stages_until(spec, until))
    plan = Plan(
        spec=spec,
        store=Store(spec.output),
        partitions=inventory,
        stages=stages,
        group_cuts=cut_groups(inventory, spec.stages.shards, hop_of(stages)),
    )
    plan.units = name_units(spec, inventory, plan.group_cuts, stages)
    refresh(plan)
    return plan


def stages_until(spec: PipelineSpec, stage: str) -> tuple[str, ...]:
    """The stages of a spec up to and including one.

    Raises:
        ConfigError: the spec does not have it.
    """
    names = spec.stage_names()
    if stage not in names:
        raise ConfigError(f"the spec has no stages.{stage}", f"set it, or name one of {', '.join(names)}")
    return names[: names.index(stage) + 1]


def plan_stages(spec: PipelineSpec, wanted: Sequence[str]) -> dict[str, StagePlan]:
    """The stages and their fingerprints, each built on those of its upstream stages."""
    stages: dict[str, StagePlan] = {}
    for name in wanted:
        upstream = upstream_of(name, wanted)
        own = identify(name, spec, {above: stage.cards for above, stage in stages.items()})
        versions = {"versions": VERSIONS} if spec.strict_versions else {}
        stages[name] = StagePlan(
            name=name,
            fingerprint=stage_fingerprint(
                name,
                own.version,
                own.parameters | versions,
                [card.card_id for card in own.cards],
                own.schema,
                {above: stages[above].fingerprint for above in upstream},
            ),
            cards=own.cards,
            upstream=upstream,
        )
    return stages


def hop_of(stages: Mapping[str, StagePlan]) -> int:
    """Samples per unit, by the cards; where units are not planned, that of most encoders (there are no shards then)."""
    return unit_tokenizer_of(stages[Units.TABLE].cards)["hop"] if Units.TABLE in stages else 320


def cut_groups(inventory: Inventory, spec: ShardsSpec, hop: int) -> np.ndarray:
    """Put whole partitions into shards of about `spec.megabytes` (or `spec.minutes`): cut by content, as the partitions are."""
    if spec.minutes is not None:
        fill = inventory.partition_seconds / (spec.minutes * 60)
    else:
        rate = TEXT_BYTES_PER_SECOND + 2 * SAMPLE_RATE / hop + (FLAC_BYTES_PER_SECOND if spec.audio else 0)
        fill = inventory.partition_seconds * rate / (spec.megabytes * 1e6)
    names = np.asarray(inventory.names)
    marks = np.asarray([int(name[:13], 16) / 16.0**13 for name in names.tolist()])
    return cut_by_content((fill * SCALE).astype(np.int64), marks)


def name_units(
    spec: PipelineSpec, inventory: Inventory, group_cuts: np.ndarray, stages: Collection[str]
) -> dict[str, np.ndarray]:
    """Stage -> names of its units: by their files' content and what the stage reads of their labels."""
    read = labels_read(spec)
    known: dict[tuple[str, ...], np.ndarray] = {(): inventory.names}
    units: dict[str, np.ndarray] = {}
    for stage in stages:
        if KINDS[stage].restates:
            units[stage] = inventory.unit_names(read[stage], everything=True, salt=spec.source.name)
            continue
        if read[stage] not in known:
            known[read[stage]] = inventory.unit_names(read[stage], everything=False)
        units[stage] = known[read[stage]]
    if SHARDS in units:
        units[SHARDS] = _group_names(units[SHARDS], group_cuts)
    return units


def _group_names(members: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    from hashlib import sha256

    names = [
        sha256(members[start:stop].tobytes()).hexdigest()[:16]
        for start, stop in zip(cuts.tolist(), cuts[1:].tolist(), strict=False)
    ]
    return np.asarray(names, "S16")


def recorded_plan(store: Store, record: dict[str, Any]) -> Plan:
    """The plan of a spec as an output has it on record (specs/*.json): no model is needed, and no commit looked up yet.

    Raises:
        ConfigError: its inventory is gone.
    """
    spec = PipelineSpec.model_validate(record["spec"])
    table, not_listed = read_inventory(store, spec.source)
    inventory = Inventory(table, spec.partitions.minutes, spec.partitions.files)
    cuts = cut_groups(inventory, spec.stages.shards, record["hop"])
    stages = {
        name: StagePlan(name=name, fingerprint=fingerprint, cards=(), upstream=upstream_of(name, record["stages"]))
        for name, fingerprint in record["stages"].items()
    }
    units = name_units(spec, inventory, cuts, stages)
    return Plan(
        spec=spec,
        store=store,
        partitions=inventory,
        stages=stages,
        group_cuts=cuts,
        units=units,
        not_listed=not_listed,
    )


def refresh(plan: Plan, check_files: bool = True) -> None:
    """Look up the commits. One that stands on a missing commit, or names a missing file, does not count as done.

    Without `check_files` the log of commits alone is read.

    Raises:
        TryAgain: a run that goes on gathers its commits faster than they are read.
    """

    def read(listed: Listed) -> dict[str, CommitLog]:
        folders = {name: folder_of(name, stage.fingerprint) for name, stage in plan.stages.items()}
        return {
            name: CommitLog(plan.store, name, stage.fingerprint, listed.get(folders[name], []))
            for name, stage in plan.stages.items()
        }

    plan.logs |= while_it_stands(plan.store, read)
    listings = Listings(plan.store)
    plan.damaged = []
    for name, stage in plan.stages.items():
        log = plan.logs[name]
        units = plan.units[name]
        plan.done[name] = standing(log, units, listings, plan.damaged.append) if check_files else log.find(units) >= 0
        plan.damaged += [f"{plan.store.root}/{path} {why}" for path, why in log.damaged]
        for above in stage.upstream:
            if not KINDS[above].restates:  # of those nothing below depends; their bytes are checked on reading
                plan.done[name] &= _all_members(plan, plan.done[above]) if KINDS[name].gathers else plan.done[above]


def _all_members(plan: Plan, done: np.ndarray) -> np.ndarray:
    missing = np.concatenate([[0], np.cumsum(~done)])
    result: np.ndarray = missing[plan.group_cuts[1:]] == missing[plan.group_cuts[:-1]]
    return result


def retire(plan: Plan) -> list[str]:
    """Forget commits that no longer count, so that their units can be committed anew, and set aside what is damaged.

    Only for the owner of the output (jobs/store/lease.py). Returns a sentence for each file that was set aside.
    """
    said: list[str] = []
    for name, log in plan.logs.items():
        said += log.set_damaged_aside()
        waiting = plan.units[name][~plan.done[name]]
        log.drop(np.unique(waiting[log.find(waiting) >= 0]))
    return said
