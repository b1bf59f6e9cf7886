"""Any file of the bookkeeping may be empty, cut off or flipped: every command says which, and none ends in a traceback."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import gc, inspect_segment, report, tokenize_audio, verify_dataset
from jobs.reporting import rejects, sql, status
from schemas.errors import ExitCode
from tests.jobs.small_corpus import contents, write_spec
from tests.jobs.synthetic_run import make_run

BOOKS = {
    "layout.json": r"layout\.json",
    "inventory/*.json": "",
    "inventory/*.parquet": r"inventory/\w+-\w+\.parquet",
    "specs/index.json": r"specs/index\.json",
    "tables/index.parquet": r"tables/index\.parquet",
    "commits/words/*/*.json": r"commits/words/\w+/\w+\.json",
    "tables/words/*.parquet": r"tables/words/\w+-\w+\.parquet",
    "shards/index.json": r"index\.json|shard index",
    "control/lease-*.json": "",
}
"""Where it lies, and how the commands that need it name it; "" where it is simply made anew."""
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
}
COMMANDS: dict[str, Callable[[str, str], int]] = {
    "dry run": lambda spec, output: tokenize_audio.main(["--config", spec, "--dry-run"]),
    "gc": lambda spec, output: gc.main(["--config", spec, "--dry-run"]),
    "gc --stale": lambda spec, output: gc.main(["--config", spec, "--dry-run", "--stale"]),
    "verify": lambda spec, output: verify_dataset.main(["--config", spec]),
    "inspect": lambda spec, output: inspect_segment.main(["--config", spec]),
    "report": lambda spec, output: report.main(["--config", spec]),
    "rejects": lambda spec, output: rejects.main(["--config", spec]),
    "status": lambda spec, output: status.main([output]),
    "sql": lambda spec, output: sql.main([output, "select count(*) from words"]),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The spec and the output of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    plan, _ = make_run(folder, audio=False)
    return write_spec(folder / "spec.yaml", plan.spec.model_dump(mode="json")), folder / "out"


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("book", BOOKS)
def test_a_damaged_file_is_named_and_no_command_breaks(
    run: tuple[Path, Path], book: str, damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec, output = run
    shutil.copytree(output, tmp_path / "kept")
    paths = sorted(output.glob(book))
    if book.startswith("control"):
        paths = [output / "control/lease-00000009.json"]
        paths[0].parent.mkdir(exist_ok=True)
        paths[0].write_bytes(b'{"pid": 1, "host": "x"}')
    assert paths
    paths[0].write_bytes(DAMAGE[damage](paths[0].read_bytes()))
    try:
        said = ""
        for name, command in COMMANDS.items():
            code = command(str(spec), str(output))
            out = "".join(capfd.readouterr())
            assert "Traceback" not in out, f"{name}: {out}"
            assert code != ExitCode.FAULT, f"{name}: {out}"
            said += out
        assert re.search(BOOKS[book], said), said
    finally:
        shutil.rmtree(output)
        shutil.copytree(tmp_path / "kept", output)
    assert contents(output) == contents(tmp_path / "kept")
