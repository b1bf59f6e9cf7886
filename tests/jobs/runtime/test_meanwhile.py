"""What others do to a run's models and source while it goes on: no row stands under the name of something else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from jobs.runtime.drive import prepare, run_in_process
from jobs.runtime.plan import Plan, make_plan
from jobs.verify_dataset import verify_shards, verify_tables
from pipeline.codebook.folder import kmeans_card, load_card, write_centroids
from schemas.cards import hash_file
from schemas.errors import TryAgain
from schemas.spec import STAGES, PipelineSpec
from schemas.tables import Recording
from tests.jobs.runtime.test_plan import run_here
from tests.jobs.small_corpus import DEMO, FILES, contents, make_spec


def test_a_model_that_is_replaced_while_a_run_goes_on_ends_it(tmp_path: Path) -> None:
    """Its units would stand under the name of the one that the run was planned with, beside that one's."""
    spec = make_spec(tmp_path)
    plan = make_plan(spec)
    prepare(plan)
    centroids = tmp_path / "centroids"
    before, other = contents(centroids), np.full((16, 39), 3.0, np.float32)
    write_centroids(centroids, other, kmeans_card("test", other, load_card(centroids).notes))
    with pytest.raises(TryAgain, match=r"the kmeans 'test' was replaced while the run went on"):
        run_in_process(plan, STAGES)
    assert not (tmp_path / "out" / "tables" / "units").exists()
    for name, data in before.items():
        (centroids / name).write_bytes(data)
    plan, _ = run_here(spec)
    assert not [*verify_tables(plan), *verify_shards(plan)]


@pytest.mark.parametrize("away", [True, False])
@pytest.mark.parametrize("until", ["recordings", "units", "shards"])
def test_what_a_file_held_is_not_told_by_what_came_in_its_place(tmp_path: Path, away: bool, until: str) -> None:
    """A file that is taken away or replaced after the listing waits for the next run. Its place back, so are its rows."""
    spec = with_audio(make_spec(tmp_path))
    plan = make_plan(spec)
    prepare(plan)
    before = STAGES[: STAGES.index(until)]
    assert run_in_process(plan, before) == []
    file = tmp_path / "audio" / FILES[0]
    file.rename(tmp_path / "kept")
    if not away:
        shutil.copy(DEMO / "jfk_inaugural_1961.flac", file)
    failed = run_in_process(plan, STAGES)
    assert failed
    assert all(FILES[0] in why and "since it was listed" in why for why in failed)
    (tmp_path / "kept").rename(file)
    plan, _ = run_here(spec)
    assert plan.is_complete()
    assert not [*verify_tables(plan), *verify_shards(plan)]
    assert not sum(commit.rows_rejected for stage in STAGES for commit in plan.commits(stage))
    assert FILES[0] in {row.uri for row in recordings_of(plan)}
    assert {row.sha256 for row in recordings_of(plan)} == {hash_file(tmp_path / "audio" / name) for name in FILES}


def with_audio(spec: PipelineSpec) -> PipelineSpec:
    """The same with the sound in its shards, which is read again for them."""
    shards = spec.stages.shards.model_copy(update={"audio": True})
    return spec.model_copy(update={"stages": spec.stages.model_copy(update={"shards": shards})})


def recordings_of(plan: Plan) -> list[Recording]:
    """All of a run."""
    outputs = (commit.outputs[Recording.TABLE] for commit in plan.commits(Recording.TABLE))
    return [row for output in outputs for row in plan.store.read_table(Recording, output)]
