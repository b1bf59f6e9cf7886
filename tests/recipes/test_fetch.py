"""Fetching what the recipes need."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import tarfile
from pathlib import Path

import pytest

from recipes.voices import fetch

UV = """#!{python}
import sys
words = sys.argv[1:]
assert words[:2] == ["tool", "run"] and "setuptools" in words and "pip" in words, words
open(words[words.index("--dest") + 1] + "/texts-1.tar.gz", "wb").write(open({archive!r}, "rb").read())
"""


def test_an_environment_without_pip_takes_uvs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With setuptools beside it, which pip asks a source package for; uv's own environments have none."""
    archive = tmp_path / "texts.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(__file__, "texts-1/hamlet.txt")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uv").write_text(UV.format(python=sys.executable, archive=str(archive)))
    (tmp_path / "bin/uv").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("TINY_MODELS_ROOT", str(tmp_path))
    (tmp_path / "packages").mkdir()
    fetched = fetch._pip("texts==1", hashlib.sha256(archive.read_bytes()).hexdigest(), source=True)
    assert fetched.read_bytes() == archive.read_bytes()
