"""The index of a set, in one piece or in parts: every reader sees the same set, and only what changed is written anew."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from jobs.gc import collect
from jobs.reporting.facts import load_index
from jobs.runtime import shard_index
from jobs.runtime.plan import Plan, make_plan
from jobs.runtime.shard_index import write_index
from jobs.verify_dataset import verify_shards
from model.data.shards import ShardError, ShardSet
from pipeline.source.partitions import SCALE, cut_by_content
from schemas.config import ConfigError
from schemas.errors import DataError
from schemas.reading.shard_reader import read_index, unit_sequences
from tests.jobs.small_corpus import contents
from tests.jobs.synthetic_run import make_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_run(tmp_path_factory.mktemp("run"), audio=False)[0]


@pytest.fixture
def in_parts(finished: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, Path, Path]:
    """The plan of a copy of the run whose index is in parts, its index, and the index in one piece."""
    shutil.copytree(Path(finished.spec.output), tmp_path / "out")
    plan = make_plan(finished.spec.with_updates(output=str(tmp_path / "out")), recorded=True)
    monkeypatch.setattr(shard_index, "PART", 1)
    write_index(plan)
    return plan, tmp_path / "out/shards/index.json", Path(finished.spec.output) / "shards/index.json"


def test_a_small_index_is_as_it_ever_was(finished: Plan) -> None:
    document = json.loads(finished.store.read_bytes("shards/index.json"))
    assert len(document["shards"]) >= 2
    assert "parts" not in document
    assert not finished.store.names("shards/index")


def test_every_reader_takes_the_parts_for_one_index(in_parts: tuple[Plan, Path, Path]) -> None:
    plan, parted, whole = in_parts
    document = json.loads(parted.read_bytes())
    assert not document["shards"]
    assert len(document["parts"]) >= 2
    assert sum(part["shards"] for part in document["parts"]) == len(read_index(str(whole)).shards)
    assert read_index(str(parted)) == read_index(str(whole)) == load_index(plan, parted.read_bytes())
    sets = ShardSet(str(parted)), ShardSet(str(whole))
    assert sets[0].index == sets[1].index
    assert sets[0].fingerprint == sets[1].fingerprint
    assert sets[0].read(1, 0).meta == sets[1].read(1, 0).meta
    units = [list(unit_sequences(str(path), read_index(str(path)))) for path in (parted, whole)]
    assert all(np.array_equal(one, other) for one, other in zip(*units, strict=True))
    assert verify_shards(plan) == []
    assert parted.with_name("README.md").read_bytes() == whole.with_name("README.md").read_bytes()


def test_a_damaged_or_missing_part_is_a_sentence(in_parts: tuple[Plan, Path, Path]) -> None:
    plan, parted, _ = in_parts
    part = sorted((parted.parent / "index").iterdir())[0]
    part.write_bytes(part.read_bytes() + b" ")
    for _ in range(2):
        with pytest.raises(ShardError, match=f"index.json.*{part.name}"):
            ShardSet(str(parted))
        with pytest.raises(DataError if part.exists() else ConfigError, match=part.name):
            read_index(str(parted))
        with pytest.raises(ConfigError, match=part.name):
            load_index(plan, parted.read_bytes())
        (problem,) = verify_shards(plan)
        assert part.name in problem
        part.unlink(missing_ok=True)


def test_gc_removes_the_parts_that_no_index_names(in_parts: tuple[Plan, Path, Path]) -> None:
    plan, parted, _ = in_parts
    (parted.parent / "index" / "index-0123456789abcdef.json").write_bytes(b"[]")
    garbage = collect(plan, stale=False)
    assert garbage.files == ["shards/index/index-0123456789abcdef.json"]
    garbage.remove(plan.store)
    before = contents(parted.parent)
    assert collect(plan, stale=False).files == []
    assert verify_shards(plan) == []
    assert contents(parted.parent) == before


def test_one_shard_more_changes_few_parts() -> None:
    """Parts are cut where the shards' own hashes say."""
    marks = np.random.default_rng(0).random(5000)
    fill = np.full(len(marks), SCALE // 64)

    def parts(chosen: np.ndarray) -> set[bytes]:
        cuts = cut_by_content(fill[: len(chosen)], chosen)
        return {chosen[start:stop].tobytes() for start, stop in pairwise(cuts)}

    assert len(parts(marks) - parts(np.delete(marks, 1000))) <= 3
