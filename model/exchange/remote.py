"""Runs and models that lie elsewhere: copied to this machine to be used, and sent to a hub."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import fsspec

from schemas.errors import DataError
from schemas.files import whole_file


def local_copy(url: str) -> Path:
    """A folder of this machine with what a run or an exported model at `url` is used by: of a run its newest checkpoint alone.

    Copies are kept under LST_CACHE (default: ~/.cache/lst) and taken again where a file's size differs.

    Raises:
        DataError: there is nothing at the URL, or it cannot be read.
    """
    cache = Path(os.environ.get("LST_CACHE") or Path.home() / ".cache" / "lst")
    target = cache / "runs" / hashlib.sha256(url.encode()).hexdigest()[:16]
    files, root = fsspec.core.url_to_fs(url)
    root = root.rstrip("/")
    try:
        found: dict[str, Any] = files.find(root, detail=True)
        sizes = {name.removeprefix(root).lstrip("/"): int(entry["size"]) for name, entry in found.items()}
        wanted = {name: size for name, size in sizes.items() if _is_wanted(name, sizes)}
        if not wanted:
            raise DataError(f"there is no run and no model at {url}")
        for name, size in wanted.items():
            local = target / name
            if not local.is_file() or local.stat().st_size != size:
                with whole_file(local) as partial:
                    files.get_file(f"{root}/{name}", str(partial))
    except OSError as error:
        raise DataError(f"cannot copy {url}: {error}") from error
    return target


def _is_wanted(name: str, names: dict[str, int]) -> bool:
    """Everything at the top, and the newest complete checkpoint."""
    steps = sorted({other.split("/")[1] for other in names if other.endswith("/checkpoint.json")})
    folder = name.split("/")
    return len(folder) == 1 or (folder[0] == "checkpoints" and bool(steps) and folder[1] == steps[-1])


def push(folder: Path, repository: str, private: bool) -> str:
    """Send an exported folder to the Hugging Face hub; the URL of what was made. The token is the hub client's own.

    Raises:
        DataError: the hub refused or did not answer.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        made = api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Export a trained model")
        return str(made.commit_url)
    except Exception as error:  # the hub's client has many
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"the hub did not take {folder} as {repository}: {reason}", "log in with `hf auth login`"
        ) from error
