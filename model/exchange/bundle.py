"""The code that goes with exported weights: `modeling_lst.py` and every file of ours that it imports, in one flat folder.

transformers copies the files that a remote module names with `from .x import y`, and no folders; so `model.network.head` becomes
`model_network_head.py` and imports are rewritten. The files are those that train and score: there is no second implementation.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from schemas.files import whole_file

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "model.exchange.modeling_lst"
OURS = ("model", "schemas")
IMPORT = re.compile(r"^(\s*)from ((?:model|schemas)[\w.]*) import ", re.MULTILINE)


def write_bundle(folder: Path) -> list[str]:
    """Write the code into `folder`; the names of its files."""
    names = []
    for module, path in sorted(modules_of(ENTRY).items()):
        text = IMPORT.sub(lambda match: f"{match[1]}from .{flat(match[2])} import ", path.read_text(encoding="utf-8"))
        names.append(f"{flat(module)}.py")
        with whole_file(folder / names[-1]) as partial:
            partial.write_text(text, encoding="utf-8")
    return names


def flat(module: str) -> str:
    """The name of a module in the flat folder."""
    return module.rsplit(".", 1)[-1] if module == ENTRY else module.replace(".", "_")


def modules_of(entry: str) -> dict[str, Path]:
    """`entry` and all modules of ours that it stands on, wherever in a file they are imported."""
    found: dict[str, Path] = {}
    waiting = [entry]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found[module] = ROOT / f"{module.replace('.', '/')}.py"
        for node in ast.walk(ast.parse(found[module].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
                waiting.append(str(node.module))
            assert not isinstance(node, ast.Import) or not any(alias.name.split(".")[0] in OURS for alias in node.names)
    return found
