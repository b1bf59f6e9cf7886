"""Data flows one way, between the folders and between the rooms inside them; no file spans the shards, no stage knows Ray."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "schemas": set(),
    "pipeline": {"schemas"},
    "model": {"schemas"},
    "jobs": {"schemas", "pipeline", "model"},
    "recipes": {"schemas", "pipeline", "model", "jobs"},
    "benchmarks": {"schemas", "pipeline", "model", "jobs", "recipes"},
}
KNOWS_RAY = {"jobs", "recipes", "benchmarks"}
MOST_FILES, MOST_LINES = 15, 350


def name_of(path: Path) -> str:
    """`model/network/lst.py` -> `model.network.lst`; a package goes by its folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """All modules that a file imports, wherever in the file, under `if TYPE_CHECKING` too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & FILES.keys() or {node.module or ""}
    return names


IMPORTS = {name: imported(path) for name, path in FILES.items()}


def room_of(name: str) -> str:
    """The folder a module lies in, dotted."""
    path = FILES[name]
    return ".".join(path.parent.relative_to(ROOT).parts)


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Every circle that a walk along the arrows of `graph` comes upon."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> Iterator[list[str]]:
        if node in path:
            yield [*path[path.index(node) :], node]
        elif node not in done:
            for following in sorted(graph.get(node, ())):
                yield from walk(following, [*path, node])
            done.add(node)

    for node in sorted(graph):
        yield from walk(node, [])


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folders_import_only_what_stands_below_them(folder: str) -> None:
    mine = {name for name in FILES if name.split(".")[0] == folder}
    assert mine, f"{folder}/ is empty"
    for name in mine:
        folders = {module.split(".")[0] for module in IMPORTS[name]}
        assert not (folders & MAY_IMPORT.keys()) - MAY_IMPORT[folder] - {folder}, f"{name} imports against the order"
        assert folder in KNOWS_RAY or "ray" not in folders, f"{name} imports ray"
        assert folder in {"recipes", "benchmarks"} or not {"pipeline", "model"} <= folders, f"{name} spans the shards"


def test_no_module_is_part_of_a_circle() -> None:
    graph = {name: modules & FILES.keys() - {name} for name, modules in IMPORTS.items()}
    assert not list(circles(graph))


def test_no_room_is_part_of_a_circle() -> None:
    """Rooms are folders; what stands on top of a folder (stages, commands) is above its rooms and imported by none of them."""
    rooms: dict[str, set[str]] = {}
    for name, modules in IMPORTS.items():
        below = {room_of(module) for module in modules & FILES.keys()} - {room_of(name)}
        rooms.setdefault(room_of(name), set()).update(below)
    assert not list(circles(rooms))


def test_a_circle_would_be_found() -> None:
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == [["a", "b", "c", "a"]]


def test_rooms_and_files_stay_small() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    for folder in {path.parent for path in (*FILES.values(), *tests)}:
        files = list(folder.glob("*.py"))
        assert len(files) <= MOST_FILES, f"{folder.relative_to(ROOT)} is a drawer: {len(files)} files"
    for path in (*FILES.values(), *tests):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= MOST_LINES, f"{path.relative_to(ROOT)} has {lines} lines"
