"""Whatever has happened to a corpus and its output: the shards are those of a fresh output, and nothing known is computed."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.gc import collect
from jobs.runtime.plan import make_plan
from jobs.store.records import index_name
from schemas.spec import PipelineSpec
from schemas.storage.files import Files
from tests.jobs.growing import Source, calls, known, make_spec, run, shards_of, use_counting_stages


class Killed(BaseException):
    """The process is gone."""


class KillAtWrite:
    """Lets the process die before, or after, one of its writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        for name in ("write_bytes", "create_exclusively", "remove_all", "move"):
            monkeypatch.setattr(Files, name, self._dying(getattr(Files, name)))

    def _dying(self, honest: Any) -> Any:
        def write(store: Files, *arguments: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise Killed
            result = honest(store, *arguments)
            self.left -= 1
            if self.left == 0:
                raise Killed
            return result

        return write


def history(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int = 7) -> None:
    dice = random.Random(seed)
    use_counting_stages(monkeypatch)
    kill = KillAtWrite(monkeypatch)
    source = Source(tmp_path / "audio", dice)
    minutes, shard = 0.05, 0.1
    for _ in range(dice.randrange(4, 9)):
        source.add()
    for step in range(steps):
        for _ in range(dice.randrange(1, 3)):
            change = dice.choice(["add", "add", "remove", "rename", "relabel", "retell"])
            if len(source.files) > 2 or change == "add":
                getattr(source, change)()
        if dice.random() < 0.25:
            minutes = dice.choice([0.03, 0.05, 0.1])
        if dice.random() < 0.1:
            shard = dice.choice([0.06, 0.1, 0.2])
        source.write_manifest()
        spec = make_spec(str(source.folder), str(tmp_path / "out"), tmp_path / "centroids", minutes, shard)
        if dice.random() < 0.3 and (part := a_slice(spec, source, dice)) is not None:
            spec = part
        if dice.random() < 0.5:
            kill.left = dice.randrange(1, 120)
            with contextlib.suppress(Killed):
                run(spec)
            kill.left = -1
        before = known(make_plan(spec))
        calls.clear()
        plan = run(spec)
        computed = {(stage, identity) for stage, identity in members_of_calls(plan, calls)}
        assert not computed & before, f"seed {seed}, step {step}: computed though it was known"
        assert max(calls.values(), default=1) == 1
        fresh = spec.with_updates(output=str(tmp_path / "fresh"))
        run(fresh)
        name = index_name(spec.source)
        assert shards_of(tmp_path / "out", name) == shards_of(tmp_path / "fresh", name), f"seed {seed}, step {step}"
        shutil.rmtree(tmp_path / "fresh")
        if dice.random() < 0.15:
            collect(plan, stale=True).remove(plan.store)
            assert make_plan(spec, recorded=True).is_complete()


def a_slice(spec: PipelineSpec, source: Source, dice: random.Random) -> PipelineSpec | None:
    folder = dice.choice(sorted({name.split("/")[0] for name in source.files}))
    pattern = f"{folder}/*"
    return spec.with_updates(source=spec.source.with_updates(pattern=pattern).model_dump())


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
    for seed in range(100 + 20 * block, 120 + 20 * block):
        with monkeypatch.context() as patch:
            history(seed, tmp_path / str(seed), patch)
        shutil.rmtree(tmp_path / str(seed))


def test_what_no_stage_reads_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other licences, other names and another partition size: no stage is asked, and the new labels are in the tables."""
    use_counting_stages(monkeypatch)
    source = Source(tmp_path / "audio", random.Random(0))
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
