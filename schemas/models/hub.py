"""Names on the Hugging Face hub, `owner/name[@revision]`, looked up in this machine's cache. Nothing is fetched here.

Workers and trainers stand on many machines and never download: `lst fetch --config SPEC` does, beforehand.
"""

from __future__ import annotations

import re
from pathlib import Path

from schemas.storage.urls import from_home

NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
LICENCE = re.compile(r"^licen[cs]e:\s*['\"]?(.+?)['\"]?\s*$", re.IGNORECASE | re.MULTILINE)


def hub_name(text: str) -> tuple[str, str | None] | None:
    """(repository, revision) where the text has the form of a hub name; None where it is a path."""
    match = NAME.fullmatch(text)
    return None if match is None or text.startswith(".") else (match.group(1), match.group(2))


def cached(text: str) -> Path | None:
    """The folder of a hub name in this machine's cache; None where it is not there, or is no such name."""
    name = hub_name(text)
    if name is None:
        return None
    from huggingface_hub import constants

    # Not by snapshot_download: it calls a snapshot incomplete that lacks what was not asked for, such as weights in other forms.
    repository = Path(constants.HF_HUB_CACHE) / f"models--{name[0].replace('/', '--')}"
    named = repository / "refs" / (name[1] or "main")
    commit = named.read_text(encoding="utf-8").strip() if named.is_file() else name[1]
    folder = None if commit is None else repository / "snapshots" / commit
    return folder if folder is not None and folder.is_dir() else None


def folder_of(text: str) -> Path | None:
    """The folder that a path or a hub name stands for on this machine; None where there is neither."""
    path = Path(from_home(text))
    return path if path.exists() else cached(text)


def licence_of(folder: Path) -> str | None:
    """What a model's folder says of its licence: the stamp of a fetch, or a line `license: ...` of its README."""
    for name in ("fetched.json", "README.md"):
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            match = re.search(r'"license":\s*"([^"]+)"', text) if name.endswith(".json") else LICENCE.search(text)
            if match:
                return match.group(1).split(". ")[0].rstrip(".")
    return None
