"""gc removes what no commit names, and nothing else."""

from pathlib import Path

from jobs.gc import stale_commits, unnamed_files
from jobs.runtime.plan import make_plan
from schemas.spec import PipelineSpec
from tests.jobs.runtime.test_plan import run_here
from tests.jobs.small_corpus import contents, make_spec


def collect(spec: PipelineSpec, stale: bool) -> set[str]:
    plan = make_plan(spec)
    old = stale_commits(plan) if stale else []
    garbage = old + unnamed_files(plan.store, ignoring=set(old))
    for path in garbage:
        plan.store.remove(path)
    return set(garbage)


def test_leftovers_of_a_kill_go_and_the_dataset_stays(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    run_here(spec)
    output = Path(spec.output)
    before = contents(output)
    left = {"tables/words/x-0.parquet", "shards/y.tar", "attempts/words/f/p.r.0", "commits/words/f/p.json.ab.tmp"}
    for name in left:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(b"x")
    assert collect(spec, stale=False) == left
    assert contents(output) == before


def test_stale_removes_what_only_an_older_spec_named(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    run_here(spec)
    document = spec.model_dump(mode="json")
    document["stages"]["patches"]["silence"] = "merged"
    newer = PipelineSpec.model_validate(document)
    run_here(newer)
    kept = contents(Path(spec.output))
    garbage = collect(newer, stale=True)
    assert {path.split("/")[1] for path in garbage if path.startswith("commits/")} == {"patches", "shards"}
    assert not any(path.startswith(("tables/units", "tables/words")) for path in garbage)
    assert collect(newer, stale=True) == set()
    assert contents(Path(spec.output)) == {name: data for name, data in kept.items() if name not in garbage}
    assert make_plan(newer).is_complete()
