"""`.ci/run` on a Makefile whose targets say their names: every step is taken, in two lanes too, and none fails unnoticed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CI = Path(__file__).parents[1] / ".ci" / "run"
STEPS = ("setup", "check", "shards", "train", "listen", "example", "verify", "study-demo", "site", "test")
MAKEFILE = f"""{" ".join(STEPS)}:
\t@mkdir -p runs; touch $@; echo "$@ compiles each time: $${{PYTHONDONTWRITEBYTECODE:-no}}"; test $@ != "$${{FAILS:-}}"
"""


def ci(folder: Path, fails: str) -> subprocess.CompletedProcess[str]:
    (folder / ".ci").mkdir()
    shutil.copy(CI, folder / ".ci")
    (folder / "Makefile").write_text(MAKEFILE, encoding="utf-8")
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of a `make test`
    environment = {**outside, "FAILS": fails, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(["bash", ".ci/run"], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_every_step_is_taken_and_says_what_it_has_to(tmp_path: Path) -> None:
    done = ci(tmp_path, fails="nothing")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert sorted(said) == sorted(f"{step} compiles each time: no" for step in STEPS)
    assert said[-1].startswith("test "), "the tests come when both lanes have ended"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_ends_it_and_nothing_comes_after(tmp_path: Path, step: str) -> None:
    done = ci(tmp_path, fails=step)
    assert done.returncode != 0
    assert f"{step} compiles" in done.stdout, "what it said before it failed is shown"
    assert (tmp_path / "test").exists() == (step == "test")
