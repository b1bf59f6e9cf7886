"""SIGKILL at any moment of a run without Ray, again and again while the corpus grows: nothing is lost, doubled or done twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from jobs.runtime.plan import make_plan
from schemas.spec import PipelineSpec
from tests.jobs.growth.growing import GrowingSource, calls, known, make_spec, run, shards_of, use_counting_stages
from tests.s3_server import Server


def killed(spec: PipelineSpec, seconds: float) -> bool:
    """A run in a process of its own, which is killed after so long; whether it was still going on."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(spec)
            code = 0
        finally:
            os._exit(code)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the run failed by itself"
    return os.WIFSIGNALED(status)


def survive(kills: int, folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int, output: str = "") -> None:
    """So many kills; after every tenth, or where a run came to its end, the shards are compared and the corpus changes."""
    use_counting_stages(monkeypatch)
    dice = random.Random(seed)
    output = output or str(folder / "out")
    source = GrowingSource(folder / "audio", dice)
    done, longest, turn, gathered = 0, 0.4, 0, 0
    while done < kills:
        for _ in range(
            5 if turn else 14
        ):  # so many that each stage gathers its commits into a part, and later parts into one
            source.add()
        if turn % 3 == 2:
            source.relabel()
            source.remove()
        source.write_manifest()
        spec = make_spec(str(source.folder), output, folder / "centroids", minutes=dice.choice([0.03, 0.05]))
        for _ in range(10):
            if done == kills or not killed(spec, dice.uniform(0.0, longest)):
                longest *= 0.7
                break
            done, longest = done + 1, longest * 1.1
        before = known(make_plan(spec))
        calls.clear()
        plan = run(spec)
        ids = {key: name for commit in plan.commits("segments") for name, key in commit.members.items()}
        assert not {("segments", ids[recording]) for stage, recording, _ in calls if stage == "segments"} & before
        assert max(calls.values(), default=1) == 1
        for stage in plan.stages:
            units = [commit.partition for commit in plan.logs[stage].commits()]
            assert len(units) == len(set(units))
            gathered += len(plan.logs[stage].parts)
        fresh = spec.with_updates(output=str(folder / "fresh"))
        run(fresh)
        assert shards_of(output) == shards_of(folder / "fresh"), f"seed {seed}, after {done} kills"
        shutil.rmtree(folder / "fresh")
        turn += 1
    assert gathered, "no commits were gathered"
    print(f"{done} kills in {turn} turns")


def test_runs_that_are_killed_end_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    survive(8, tmp_path, monkeypatch, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("where", ["local", "s3"])
def test_three_hundred_kills(where: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        with monkeypatch.context() as patch:
            output = f"s3://bucket/killed/{seed}" if where == "s3" else ""
            survive(50, tmp_path / str(seed), patch, seed, output)
