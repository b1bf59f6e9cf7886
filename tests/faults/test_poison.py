"""Files that hang, kill, or fill a worker, one whose sample kills who writes it, and one that is not there: each is a reject
that says why, and costs nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jobs.runtime.plan import make_plan
from jobs.runtime.rejects import read_rejects
from schemas.config import load_config
from schemas.spec import PipelineSpec
from schemas.tables import Recording
from tests.jobs.small_corpus import DEMO, FILES, ROOT, document, make_centroids, make_corpus, second_clone, write_spec

POISON = """

import os, signal, time
_honest = SegmentsStage._segments


def _poisoned(self, recording, channel, audio):
    if "hang" in recording.uri:
        time.sleep(3600)
    if "kill" in recording.uri:
        os.kill(os.getpid(), signal.SIGKILL)
    if "fill" in recording.uri:
        held = [bytes(range(256)) * 2**20 for _ in range(8)]
        time.sleep(30 + len(held))
    return _honest(self, recording, channel, audio)


SegmentsStage._segments = _poisoned
"""
"""What is appended to pipeline/segments.py of another checkout: bugs in native code, as it were."""
POISONED_SHARDS = """

import os, signal
_honest = build_sample


def build_sample(passage, *more):
    if "unwritable" in passage.recording.uri:
        os.kill(os.getpid(), signal.SIGSEGV)
    return _honest(passage, *more)
"""
"""What is appended to its pipeline/shards.py."""


def tokenize(root: Path, spec: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(root / "jobs" / "tokenize_audio.py"), "--config", str(spec), "--no-progress"]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=560)
    assert result.returncode == 0, result.stdout + result.stderr


def samples(folder: Path) -> dict[str, bytes]:
    """The members of all shards: partitions, and so the files, are others where there are other files beside."""
    found = {}
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                content = archive.extractfile(member)
                assert content is not None
                found[member.name] = content.read()
    return found


@pytest.mark.slow
def test_each_bad_file_is_a_reject_that_says_why_and_the_shards_are_those_without_them(tmp_path: Path) -> None:
    make_centroids(tmp_path / "centroids")
    make_corpus(tmp_path / "good")
    make_corpus(tmp_path / "bad")
    audio, rate = soundfile.read(DEMO / FILES[0], dtype="float32")
    with open(tmp_path / "bad" / "manifest.tsv", "a", encoding="utf-8") as file:
        lines = (DEMO / "manifest.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
        row = next(line for line in lines if line.startswith(FILES[0]))
        file.write(row.replace(FILES[0], "unwritable.wav"))
    for number, name in enumerate(("hang", "kill", "fill", "unwritable")):
        soundfile.write(tmp_path / "bad" / f"{name}.wav", audio * np.float32(0.9 - 0.1 * number), rate)
    (tmp_path / "bad" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    clone = second_clone(tmp_path / "clone")
    with open(clone / "pipeline" / "segments.py", "a", encoding="utf-8") as file:
        file.write(POISON)
    with open(clone / "pipeline" / "shards.py", "a", encoding="utf-8") as file:
        file.write(POISONED_SHARDS)
    line = {"workers": 2, "memory_gib": 1.5, "timeout_minutes": 0.4, "timeout_factor": 0.0}
    specs = {}
    for name, root in (("good", ROOT), ("bad", clone)):
        content = document(
            tmp_path / name,
            tmp_path / f"{name}-out",
            tmp_path / "centroids",
            resources={"line": line},
            max_reject_rate=0.9,
        )
        specs[name] = write_spec(tmp_path / f"{name}.yaml", content)
        tokenize(root, specs[name])
    plan = make_plan(load_config(PipelineSpec, specs["bad"]), recorded=True)
    commits = list(plan.commits("recordings"))
    rows = [row for commit in commits for row in plan.store.read_table(Recording, commit.outputs["recordings"])]
    uris = {row.recording_id: row.uri for row in rows}
    assert {uris.get(reject.id[:16], reject.id): reject.code for reject in read_rejects(plan)} == {
        "hang.wav": "timeout",
        "kill.wav": "worker_crashed",
        "fill.wav": "out_of_memory",
        "gone.wav": "missing",
        "unwritable.wav": "worker_crashed",
    }
    assert samples(tmp_path / "bad-out" / "shards") == samples(tmp_path / "good-out" / "shards")
