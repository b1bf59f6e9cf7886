"""Whatever has happened to a corpus and its output: the shards are those of a fresh output, and nothing known is computed."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.gc import collect
from jobs.runtime import drive as drive_module
from jobs.runtime.plan import Plan, make_plan
from jobs.store.lease import LeaseLost, read_owner
from jobs.store.records import index_name
from jobs.store.store import Store
from jobs.tokenize_audio import check_upstream
from schemas.config import ConfigError
from schemas.errors import DataError
from schemas.spec import PipelineSpec
from schemas.storage.files import Files
from tests.jobs.growth.growing import (
    GrowingSource,
    Killed,
    calls,
    known,
    make_spec,
    run,
    shards_of,
    use_counting_stages,
)
from tests.jobs.small_corpus import contents

CHANGES = ("add", "add", "remove", "rename", "move", "touch", "replace", "relabel", "annotate", "retell")
"""What happens to a source, as methods of GrowingSource."""


class AtWrite:
    """Lets something happen before, or after, one of the writes to an output."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left = 0
        self._what: Callable[[], None] = lambda: None
        for name in ("write_bytes", "create_exclusively", "remove_all", "move"):
            monkeypatch.setattr(Files, name, self._counting(getattr(Files, name)))

    @contextlib.contextmanager
    def happens(self, what: Callable[[], None], moment: int) -> Iterator[None]:
        """`what` at the moment of that number, if the body comes so far: two for each write."""
        self._left, self._what = moment, what
        yield
        self._left = 0

    def _counting(self, honest: Any) -> Any:
        def write(store: Files, *arguments: Any) -> Any:
            self._count()
            result = honest(store, *arguments)
            self._count()
            return result

        return write

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._what()


class History:
    """What happens to a corpus and its output, by chance."""

    def __init__(self, seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seed, self.folder, self.dice = seed, folder, random.Random(seed)
        use_counting_stages(monkeypatch)
        self.writes = AtWrite(monkeypatch)
        self.source = GrowingSource(folder / "audio", self.dice)
        self.minutes, self.shard = 0.05, 0.1
        self.happened: Counter[str] = Counter()
        for _ in range(self.dice.randrange(4, 9)):
            self.source.add()

    def step(self, number: int) -> None:
        """Some changes, perhaps a disturbed run, and one to the end, compared with a fresh output."""
        dice = self.dice
        for _ in range(dice.randrange(1, 3)):
            change = dice.choice(CHANGES)
            if len(self.source.files) > 2 or change == "add":
                getattr(self.source, change)()
                self.happened[change] += 1
        self.source.write_manifest()
        self.resize()
        spec = self.spec()
        if dice.random() < 0.3:
            self.disturb(spec, "kill", self.die)
        if dice.random() < 0.3:
            self.disturb(self.other(spec), "two drivers", lambda: self.second_driver(spec))
        plan = self.run_knowing(spec, number)
        fresh = spec.with_updates(output=str(self.folder / "fresh"))
        run(fresh)
        name = index_name(spec.source)
        out, wanted = (shards_of(self.folder / place, name) for place in ("out", "fresh"))
        assert out == wanted, f"seed {self.seed}, step {number}"
        shutil.rmtree(self.folder / "fresh")
        if dice.random() < 0.15:
            self.happened["gc"] += 1
            collect(plan, stale=True).remove(plan.store)
            assert make_plan(spec, recorded=True).is_complete()

    def resize(self) -> None:
        """Partitions or shards of another length, now and then."""
        before = self.minutes, self.shard
        if self.dice.random() < 0.25:
            self.minutes = self.dice.choice([0.03, 0.05, 0.1])
        if self.dice.random() < 0.1:
            self.shard = self.dice.choice([0.06, 0.1, 0.2])
        self.happened["resize"] += before != (self.minutes, self.shard)

    def spec(self) -> PipelineSpec:
        """What is to be run: the whole source, or a slice of it."""
        spec = make_spec(
            str(self.source.folder),
            str(self.folder / "out"),
            self.folder / "centroids",
            minutes=self.minutes,
            shard=self.shard,
        )
        if self.dice.random() < 0.3:
            self.happened["slice"] += 1
            folder = self.dice.choice(sorted({name.split("/")[0] for name in self.source.files}))
            spec = spec.with_updates(source=spec.source.with_updates(pattern=f"{folder}/*").model_dump())
        return spec

    def other(self, spec: PipelineSpec) -> PipelineSpec:
        """The same, or with partitions of another length."""
        return spec.with_updates(partitions={"minutes": self.dice.choice([self.minutes, 0.03, 0.1])})

    def disturb(self, spec: PipelineSpec, name: str, what: Callable[[], None]) -> None:
        """A run to which something happens. It may come to its end before that."""

        def happen() -> None:
            self.happened[name] += 1
            what()

        with self.writes.happens(happen, self.dice.randrange(1, 120)), contextlib.suppress(Killed, LeaseLost):
            run(spec, take_over=True, asks=lambda: self.dice.random() < 0.1)

    def die(self) -> None:
        """The driver is gone in the middle of a write."""
        raise Killed

    def second_driver(self, spec: PipelineSpec) -> None:
        """One that is refused; or one that takes over, and the first does not know yet."""
        if self.dice.random() < 0.3:
            _, works = read_owner(Store(spec.output))  # nobody does at the first write and after the last
            if works:
                with pytest.raises(ConfigError, match="is being written by test"):
                    run(spec)
        else:
            before, mine = calls.copy(), known(make_plan(spec))
            calls.clear()
            with contextlib.suppress(Killed):
                self.check_calls(run(spec, take_over=True), mine)
            calls.update(before)

    def run_knowing(self, spec: PipelineSpec, number: int) -> Plan:
        """A run to its end, which computes nothing that was known before it."""
        before = known(make_plan(spec))
        calls.clear()
        plan = run(spec, take_over=True)
        self.check_calls(plan, before)
        return plan

    def check_calls(self, plan: Plan, before: set[tuple[str, str]]) -> None:
        """`calls` are of what was not known, each made once."""
        computed = {(stage, identity) for stage, identity in members_of_calls(plan, calls)}
        assert not computed & before, f"seed {self.seed}: computed though it was known"
        assert max(calls.values(), default=1) == 1


def history(seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int = 7) -> Counter[str]:
    """One history; how often each kind of event was in it."""
    events = History(seed, folder, monkeypatch)
    for number in range(steps):
        events.step(number)
    return events.happened


def members_of_calls(plan: Any, made: Counter[tuple[str, str, str]]) -> set[tuple[str, str]]:
    """Calls as (stage, id of a file), by what the commits now say."""
    ids: dict[tuple[str, str], str] = {}
    for stage in ("segments", "words", "units"):
        for commit in plan.commits(stage):
            ids |= {(stage, key): name for name, key in commit.members.items()}
    return {(stage, ids[stage, recording]) for stage, recording, _ in made}


@pytest.mark.parametrize("seed", range(5))
def test_after_any_history_the_shards_are_those_of_a_fresh_output(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history(seed, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_two_hundred_histories(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: Counter[str] = Counter()
    for seed in range(1000 + 20 * block, 1020 + 20 * block):
        with monkeypatch.context() as patch:
            happened += history(seed, tmp_path / str(seed), patch)
        shutil.rmtree(tmp_path / str(seed))
    assert set(happened) >= {*CHANGES, "resize", "slice", "kill", "two drivers", "gc"}
    print(dict(happened))


def test_what_no_stage_reads_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other licences, other names and another partition size: no stage is asked, and the new labels are in the tables."""
    use_counting_stages(monkeypatch)
    source = GrowingSource(tmp_path / "audio", random.Random(0))
    for _ in range(12):
        source.add()
    source.write_manifest()
    spec = make_spec(str(source.folder), str(tmp_path / "out"), tmp_path / "centroids")
    run(spec)
    for change in (source.relabel, source.rename):
        change()
        source.write_manifest()
        calls.clear()
        plan = run(spec)
        assert not calls
        rows = [
            row
            for commit in plan.commits("recordings")
            for row in plan.store.read_arrow(
                commit.outputs["recordings"].path, commit.outputs["recordings"].sha256
            ).to_pylist()
        ]
        assert {row["uri"]: row["license"] for row in rows}.items() <= {
            name: facts["license"] for name, facts in source.files.items()
        }.items()
    run(spec.with_updates(partitions={"minutes": 0.1}))
    assert not calls
    source.add()
    source.write_manifest()
    run(spec)
    assert sorted(stage for stage, _, _ in calls) == ["segments", "units", "words"], "the new file alone"


def test_a_damaged_catalogue_of_another_index_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run reads those of all indices, to move what none needs out of the way: one that was empty ended it in a traceback."""
    use_counting_stages(monkeypatch)
    source = GrowingSource(tmp_path / "audio", random.Random(3))
    source.add()
    source.write_manifest()
    spec = make_spec(str(source.folder), str(tmp_path / "out"), tmp_path / "centroids")
    run(spec)
    catalogue = tmp_path / "out" / "tables" / "index.parquet"
    for content in (b"", catalogue.read_bytes()[:-99]):
        catalogue.with_name("index-0123abcd.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"tables/index-0123abcd\.parquet is damaged .* remove it"):
            run(spec)


@pytest.mark.parametrize(("change", "stage"), [("retell", "transcripts"), ("relabel", "shards")])
def test_one_stage_alone_waits_for_recordings_that_are_labelled_anew(
    change: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stage's results stand on labels that it does not read, but all read `recordings`: --only ended in a traceback."""
    use_counting_stages(monkeypatch)
    source = GrowingSource(tmp_path / "audio", random.Random(3))
    for _ in range(4):
        source.add()
    source.write_manifest()
    spec = make_spec(str(source.folder), str(tmp_path / "out"), tmp_path / "centroids")
    run(spec)
    for _ in range(9):  # one of three licences may be the former
        getattr(source, change)()
    source.write_manifest()
    plan = make_plan(spec, until=stage)
    assert plan.pending("recordings")
    with pytest.raises(ConfigError, match=f"--only {stage} needs recordings, .* run --until recordings first"):
        check_upstream(plan, stage)
    run(spec)
    check_upstream(make_plan(spec, until=stage), stage)
    check_upstream(make_plan(spec, until="recordings"), "recordings")


def test_the_order_in_which_tasks_come_back_is_not_in_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that are done and come back in any order, in windows of any size, give the very index of a calm run."""
    use_counting_stages(monkeypatch)
    source = GrowingSource(tmp_path / "audio", random.Random(5))
    for _ in range(20):
        source.add()
    source.write_manifest()
    spec = make_spec(str(source.folder), str(tmp_path / "calm"), tmp_path / "centroids", shard=0.04)
    run(spec)
    calm = contents(tmp_path / "calm" / "shards")
    honest = drive_module.drive
    for seed in range(3):
        dice = random.Random(seed)

        def disorderly(plan: Plan, stages: Any, execute: Any, run_id: str, dice: random.Random = dice) -> list[str]:
            def shuffled(names: Any, tasks: list[Any]) -> Iterator[Any]:
                done = list(execute(names, dice.sample(tasks, len(tasks))))
                yield from dice.sample(done, len(done))

            return honest(plan, stages, shuffled, run_id)

        monkeypatch.setattr(drive_module, "WINDOW", dice.choice([2, 5, 99]))
        monkeypatch.setattr(drive_module, "drive", disorderly)
        run(spec.with_updates(output=str(tmp_path / f"out{seed}")))
        assert contents(tmp_path / f"out{seed}" / "shards") == calm
