"""Data flows one way: schemas <- pipeline <- jobs; schemas <- model <- jobs. No stage knows Ray; no file spans the shards."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"schemas", "pipeline", "jobs", "model"}
MAY_IMPORT = {
    "schemas": {"schemas"},
    "pipeline": {"schemas", "pipeline"},
    "jobs": {"schemas", "pipeline", "model", "jobs"},
    "model": {"schemas", "model"},
}
KNOWS_RAY = {"jobs"}


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_go_one_way(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"{room}/ is empty"
    for path in files:
        names = imported(path)
        assert not (names & ROOMS) - MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports against the agreed direction"
        assert not {"pipeline", "model"} <= names, f"{path.relative_to(ROOT)} knows both sides of the shards"
        assert room in KNOWS_RAY or "ray" not in names, f"{path.relative_to(ROOT)} imports ray"
