"""gc removes what no commit names, and nothing else."""

import errno
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import jobs.runtime.worker as worker_module
from jobs.gc import collect as find_garbage
from jobs.runtime.plan import make_plan
from jobs.store.records import index_name
from pipeline.stage import Stage, StageResult
from schemas.arrow import Row
from schemas.config import ConfigError
from schemas.errors import DataError
from schemas.spec import PipelineSpec
from tests.jobs.runtime.test_plan import run_here
from tests.jobs.small_corpus import contents, make_spec


def collect(spec: PipelineSpec, stale: bool) -> tuple[set[str], set[str]]:
    """Remove the garbage; the files, and the stages whose commits went."""
    plan = make_plan(spec, recorded=True)
    garbage = find_garbage(plan, stale)
    garbage.remove(plan.store)
    return set(garbage.files), {log.stage for log, units in garbage.commits if len(units)}


def test_leftovers_of_a_kill_go_and_the_dataset_stays(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    run_here(spec)
    output = Path(spec.output)
    before = contents(output)
    left = {"tables/words/x-0.parquet", "shards/y.tar", "attempts/words/f/p.r.0", "commits/words/f/p.json.ab.tmp"}
    for name in left:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(b"x")
    assert collect(spec, stale=False) == (left, set())
    assert contents(output) == before
    for name in (left := {"specs/index.json.ab.tmp", "cards/x.json.cd.tmp"}):
        (output / name).write_bytes(b"")
    assert collect(spec, stale=True) == (left, set()), "half a spec is no spec on record"
    assert contents(output) == before


def test_stale_removes_what_only_an_older_spec_named(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    run_here(spec)
    document = spec.model_dump(mode="json")
    document["stages"]["patches"]["silence"] = "merged"
    newer = PipelineSpec.model_validate(document)
    run_here(newer)
    files, stages = collect(newer, stale=True)
    assert stages == {"patches", "shards"}
    assert files
    assert all(path.startswith(("superseded/tables/patches", "shards/")) for path in files)
    assert collect(newer, stale=True) == (set(), set())
    assert make_plan(newer).is_complete()


def test_a_slice_and_the_whole_keep_what_the_other_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole uses the slice's work, each has its index, and `gc --stale` of one leaves the other complete."""
    spec = make_spec(tmp_path)
    part = spec.with_updates(source=spec.source.with_updates(pattern="*8[89]0.*").model_dump())
    run_here(part)
    calls = count_calls(monkeypatch)
    run_here(spec)
    assert calls["units"] == 3, "files that are not in the slice"
    shards = contents(Path(spec.output) / "shards")
    assert {name for name in shards if name.endswith(".json")} == {"index.json", f"{index_name(part.source)}.json"}
    for one in (part, spec):
        collect(one, stale=True)
    assert make_plan(part).is_complete()
    assert make_plan(spec).is_complete()
    assert contents(Path(spec.output) / "shards") == shards


def test_an_output_of_another_layout_is_refused(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    (tmp_path / "out/commits/inventory/0").mkdir(parents=True)
    (tmp_path / "out/commits/inventory/0/00000-aa.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"was written in layout 1 .* choose another `output`"):
        make_plan(spec)


def count_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many segments each stage is given from now on."""
    calls: Counter[str] = Counter()
    honest = worker_module.run_rows

    def counted(stage: Stage, tables: Mapping[str, Sequence[Row]], *rest: Any) -> StageResult:
        calls[stage.name] += len(tables[stage.inputs[0]])
        return honest(stage, tables, *rest)

    monkeypatch.setattr(worker_module, "run_rows", counted)
    return calls


def test_commits_that_cannot_be_listed_or_read_keep_what_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for an empty folder or for no commits, they would have cost the tables of their stage."""
    spec = make_spec(tmp_path)
    run_here(spec)
    plan = make_plan(spec)
    for log in plan.logs.values():
        log.gather()
    before = contents(Path(spec.output))
    honest = os.scandir

    def scandir(path: Any = ".") -> Any:
        if "commits/words/" in str(path):
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return honest(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        with pytest.raises(OSError, match="Too many open files"):
            find_garbage(plan, stale=False)
    (part,) = Path(spec.output).glob("commits/words/*/part-*.parquet")
    part.write_bytes(part.read_bytes()[:-8] + b"bad bad!")
    with pytest.raises(DataError, match=rf"{part.name} cannot be read .*would be removed.*sets it aside"):
        find_garbage(make_plan(spec, recorded=True), stale=False)
    run_here(spec)
    assert collect(spec, stale=False)[1] == set()
    after = contents(Path(spec.output))
    assert {name: data for name, data in after.items() if name.startswith(("tables/", "shards/"))} == {
        name: data for name, data in before.items() if name.startswith(("tables/", "shards/"))
    }
