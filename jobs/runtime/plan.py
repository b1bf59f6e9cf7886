"""The plan: which stages, which partitions, what is committed already, what is left to do. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jobs.runtime.stages import UPSTREAM, build_stage, unit_tokenizer_of
from jobs.runtime.store import Store
from pipeline.shards import VERSION as SHARDS_VERSION
from pipeline.source.inventory import Partition, cut_partitions, survey
from pipeline.source.listing import describe
from schemas.audio import SAMPLE_RATE
from schemas.cards import Card, fingerprint
from schemas.commit import Commit, stage_fingerprint
from schemas.shards import SHARD_FORMAT
from schemas.spec import PipelineSpec
from schemas.tables import TABLES, InventoryItem

STAGES = ("recordings", "segments", "transcripts", "words", "units", "patches", "shards")
INVENTORY_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """A stage with its identity: `fingerprint` changes with whatever may change the stage's results."""

    name: str
    fingerprint: str
    cards: tuple[Card, ...]
    upstream: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ShardGroup:
    """A shard to be: whole partitions, in inventory order."""

    name: str
    partitions: tuple[str, ...]


@dataclass(kw_only=True)
class Plan:
    """What is to be done. `done[stage]` are the partitions (for `shards`: groups) whose commits stand."""

    spec: PipelineSpec
    store: Store
    partitions: Sequence[Partition]
    groups: Sequence[ShardGroup]
    stages: dict[str, StagePlan]
    done: dict[str, set[str]] = field(default_factory=dict)
    not_listed: str = ""
    """Files of the source that are not in the inventory, counted by what they are: "4 .webm, 2 .aiff"."""

    def units_of_work(self, stage: str) -> list[str]:
        """Names of all partitions of a stage."""
        return [item.name for item in (self.groups if stage == "shards" else self.partitions)]

    def pending(self, stage: str) -> list[str]:
        """Partitions of a stage that are still to be done, in order."""
        return [name for name in self.units_of_work(stage) if name not in self.done[stage]]

    def is_complete(self) -> bool:
        """Whether every planned stage is committed everywhere."""
        return not any(self.pending(stage) for stage in self.stages)

    def audio_hours(self) -> float:
        """Hours of audio by the headers of the inventory."""
        return sum(item.seconds or 0.0 for partition in self.partitions for item in partition.items) / 3600

    def group_of(self, partition: str) -> ShardGroup:
        """The shard that a partition belongs to."""
        return next(group for group in self.groups if partition in group.partitions)

    def commits(self, stage: str) -> list[Commit]:
        """The commits of a stage that stand, in partition order."""
        plan = self.stages[stage]
        return [
            self.store.read_commit(stage, plan.fingerprint, name)
            for name in self.units_of_work(stage)
            if name in self.done[stage]
        ]


def make_plan(spec: PipelineSpec, until: str = "shards") -> Plan:
    """List the source, cut it into partitions, and look up what is committed.

    Raises:
        ConfigError: the source is missing or holds no audio, or a model is missing.
    """
    listing = survey(spec.source)
    plan = plan_items(spec, listing.items, until)
    plan.not_listed = describe(listing.not_listed)
    return plan


def plan_items(spec: PipelineSpec, items: Sequence[InventoryItem], until: str) -> Plan:
    """The plan for these files of the source.

    Raises:
        ConfigError: a model is missing.
    """
    partitions = cut_partitions(items, minutes=spec.partitions.minutes, files=spec.partitions.files)
    plan = Plan(
        spec=spec,
        store=Store(spec.output),
        partitions=partitions,
        groups=group_partitions(partitions, spec.stages.shards.minutes),
        stages=plan_stages(spec, STAGES[: STAGES.index(until) + 1]),
    )
    refresh(plan)
    return plan


def plan_stages(spec: PipelineSpec, wanted: Sequence[str]) -> dict[str, StagePlan]:
    """The stages and their fingerprints, each built on those of its upstream stages."""
    stages: dict[str, StagePlan] = {}
    for name in wanted:
        upstream = UPSTREAM[name]
        if name == "shards":
            cards: tuple[Card, ...] = tuple(_cards_of(stages))
            version, schema, parameters = SHARDS_VERSION, SHARD_FORMAT, spec.parameters(name)
        else:
            stage = build_stage(name, spec)
            cards = tuple(stage.cards())
            version, schema, parameters = stage.version, TABLES[name].VERSION, spec.parameters(name)
        if name == "patches":
            parameters = {**parameters, "hop": unit_tokenizer_of(stages["units"].cards)["hop"]}
        if name == "recordings":
            parameters = {**parameters, "source": spec.source.name}
        stages[name] = StagePlan(
            name=name,
            fingerprint=stage_fingerprint(
                name,
                version,
                parameters,
                [card.card_id for card in cards],
                schema,
                {above: stages[above].fingerprint for above in upstream},
            ),
            cards=cards,
            upstream=upstream,
        )
    return stages


def _cards_of(stages: Mapping[str, StagePlan]) -> list[Card]:
    return [card for stage in stages.values() for card in stage.cards]


def group_partitions(partitions: Sequence[Partition], minutes: float) -> list[ShardGroup]:
    """Put whole partitions into shards of about `minutes` of audio: a function of the inventory and the number alone."""
    groups: list[list[str]] = []
    filled = 0.0
    for partition in partitions:
        length = sum(item.seconds or 0.0 for item in partition.items)
        if not groups or filled + length > minutes * 60:
            groups.append([])
            filled = 0.0
        groups[-1].append(partition.name)
        filled += length
    return [
        ShardGroup(name=f"{number:05d}-{fingerprint(names)[:8]}", partitions=tuple(names))
        for number, names in enumerate(groups)
    ]


def refresh(plan: Plan) -> None:
    """Look up the commits. One that stands on a missing commit, or names a missing file, does not count as done."""
    files = {table: plan.store.names(f"tables/{table}") for table in TABLES}
    files["shards"] = plan.store.names("shards")
    for name, stage in plan.stages.items():
        standing = plan.store.committed(name, stage.fingerprint) & set(plan.units_of_work(name))
        plan.done[name] = {
            unit for unit in standing if _upstream_done(plan, stage, unit) and _files_there(plan, stage, unit, files)
        }


def _upstream_done(plan: Plan, stage: StagePlan, unit: str) -> bool:
    units: tuple[str, ...] = (unit,)
    if stage.name == "shards":
        units = next(group.partitions for group in plan.groups if group.name == unit)
    return all(member in plan.done[above] for above in stage.upstream for member in units)


def _files_there(plan: Plan, stage: StagePlan, unit: str, files: Mapping[str, set[str]]) -> bool:
    commit = plan.store.read_commit(stage.name, stage.fingerprint, unit)
    return all(
        output.path.rsplit("/", 1)[-1] in files[output.path.split("/")[-2]] for output in commit.outputs.values()
    )


def retire(plan: Plan) -> None:
    """Remove commits that no longer count, so that their partitions can be committed anew."""
    for name, stage in plan.stages.items():
        for unit in plan.store.committed(name, stage.fingerprint) & set(plan.pending(name)):
            plan.store.remove(plan.store.commit_path(name, stage.fingerprint, unit))


def write_inventory(plan: Plan) -> None:
    """Publish the partitions' inventory, which the first stage reads, where it is not there yet."""
    identity = inventory_fingerprint()
    known = plan.store.committed("inventory", identity)
    for partition in plan.partitions:
        if partition.name in known:
            continue
        output = plan.store.write_table(InventoryItem, partition.items, partition.name, identity)
        samples = sum(round((item.seconds or 0.0) * SAMPLE_RATE) for item in partition.items)
        plan.store.publish(
            Commit(
                stage="inventory",
                fingerprint=identity,
                partition=partition.name,
                inputs={},
                outputs={"inventory": output},
                rows_in=len(partition.items),
                rows_out=len(partition.items),
                rows_rejected=0,
                rejects_by_code={},
                samples_in=samples,
                samples_out=samples,
                samples_rejected=0,
                seconds_busy=0.0,
            )
        )


def inventory_fingerprint() -> str:
    """The inventory's own: partitions are named by what they hold, so only the code's version counts."""
    return stage_fingerprint("inventory", INVENTORY_VERSION, {}, [], InventoryItem.VERSION, {})
