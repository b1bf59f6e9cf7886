"""What a commit says of its making, what is said where it changed, and when that enters the identity of the work."""

from __future__ import annotations

import random
import re
import socket
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from jobs.reporting import summary
from jobs.runtime import plan as plan_module
from jobs.runtime.plan import Plan, make_plan, plan_stages
from jobs.store import provenance as provenance_module
from jobs.store.provenance import VERSIONS, processor, provenance
from schemas.spec import STAGES, PipelineSpec
from tests.jobs.growth.growing import GrowingSource, calls, make_spec, run, use_counting_stages


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, PipelineSpec]:
    use_counting_stages(monkeypatch)
    source = GrowingSource(tmp_path / "audio", random.Random(3))
    for _ in range(3):
        source.add()
    source.write_manifest()
    spec = make_spec(str(source.folder), str(tmp_path / "out"), tmp_path / "centroids")
    return run(spec), spec


def test_every_commit_says_when_where_on_what_and_with_which_versions(finished: tuple[Plan, PipelineSpec]) -> None:
    plan, _ = finished
    for stage in STAGES:
        for commit in plan.commits(stage):
            made = commit.provenance
            age = datetime.now(UTC) - datetime.fromisoformat(made["when"])
            assert 0 <= age.total_seconds() + 1 < 600
            assert made["host"] == socket.gethostname()
            assert made["device"] == processor() != ""
            versions = dict(re.findall(r"(\S+)=(\S+)", made["versions"]))
            assert versions == VERSIONS
            assert {"python", "numpy", "torch", "soundfile"} <= set(versions)
            assert versions["numpy"] == np.__version__


def test_a_gpu_is_named_instead_of_the_processor() -> None:
    assert provenance("NVIDIA H100")["device"] == "NVIDIA H100"


def test_a_changed_version_is_reported_and_changes_nothing_unless_the_spec_says_so(
    finished: tuple[Plan, PipelineSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, spec = finished
    assert summary.version_notes(plan) == []
    newer = {**VERSIONS, "soundfile": "99.1"}
    for module in (provenance_module, plan_module):
        monkeypatch.setattr(module, "VERSIONS", newer)
    calls.clear()
    plan = run(spec)
    assert not calls, "another version alone is no reason to compute"
    notes = summary.version_notes(plan)
    assert [note.split(":")[0] for note in notes] == list(STAGES)
    assert all(f"made with soundfile={VERSIONS['soundfile']}" in note and "numpy" not in note for note in notes)
    strict = spec.with_updates(strict_versions=True)
    assert not make_plan(strict).is_complete()
    plan = run(strict)
    assert {stage for stage, _, _ in calls} == {"segments", "words", "units"}
    assert summary.version_notes(plan) == []


def test_strict_versions_enter_every_fingerprint(
    finished: tuple[Plan, PipelineSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, spec = finished
    strict = spec.with_updates(strict_versions=True)
    plain, before = plan_stages(spec, STAGES), plan_stages(strict, STAGES)
    monkeypatch.setattr(plan_module, "VERSIONS", {**VERSIONS, "torch": "0"})
    after = plan_stages(strict, STAGES)
    for stage in STAGES:
        assert len({one[stage].fingerprint for one in (plain, before, after)}) == 3
        assert plan_stages(spec, STAGES)[stage].fingerprint == plain[stage].fingerprint
