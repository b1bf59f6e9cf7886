"""Runs and models that lie elsewhere: copied to this machine to be used, and sent to a hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from schemas.errors import DataError, StorageError
from schemas.files import whole_file
from schemas.storage.cache import cache_of, locked
from schemas.storage.files import Files

LATEST = "checkpoints/latest"
STAMPS = ".stamps.json"
EXPORTED = (
    "README.md", "config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer.model",
    "unit_bpe.json", "boundaries.npz", "modeling_lst.py", "model_*.py", "schemas_*.py",
)  # fmt: skip
"""What an export writes: the folder may be one with other files in it, which were not meant to be published."""


def local_copy(url: str) -> Path:
    """A folder of this machine with what a run or an exported model at `url` is used by: of a run its latest checkpoint alone.

    Copies are kept under LST_CACHE (default: ~/.cache/lst) and taken again where a file has changed.

    Raises:
        DataError: there is nothing at the URL, or it cannot be read.
        StorageError: the storage did not answer.
    """
    files, target = Files(url), cache_of("runs", url)
    try:
        with locked(target / ".lock"):
            wanted = _wanted(files)
            known = _known(target)
            for name in [name for name in known if name not in wanted]:
                (target / name).unlink(missing_ok=True)
            for name, stamp in wanted.items():
                if known.get(name) != stamp or not (target / name).is_file():
                    files.get_file(name, target / name)
            with whole_file(target / STAMPS) as partial:
                partial.write_text(json.dumps(wanted), encoding="utf-8")
    except StorageError:
        raise
    except OSError as error:
        raise DataError(f"cannot copy {url}: {error}") from error
    return target


def check_there(url: str) -> None:
    """Look for a run or an exported model at `url` without copying it.

    Raises:
        DataError, StorageError: see `local_copy`.
    """
    try:
        _wanted(Files(url))
    except StorageError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {url}: {error}") from error


def _wanted(files: Files) -> dict[str, str]:
    """Name -> stamp of what is used there."""
    stamps = files.stamps()
    latest = _latest(files, stamps)
    wanted = {name: stamp for name, stamp in stamps.items() if _is_wanted(name, latest)}
    if not wanted:
        raise DataError(f"there is no run and no model at {files.root}")
    return wanted


def _known(target: Path) -> dict[str, str]:
    """Name -> stamp of what was copied before."""
    try:
        known: dict[str, str] = json.loads((target / STAMPS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known


def _latest(files: Files, names: Mapping[str, str]) -> str | None:
    """The checkpoint that a run would go on from: `latest` names it, else it is the newest complete one."""
    steps = sorted({name.split("/")[1] for name in names if name.endswith("/checkpoint.json")})
    named = files.read_bytes(LATEST).decode("utf-8", "replace").strip() if LATEST in names else ""
    return named if named in steps else (steps[-1] if steps else None)


def _is_wanted(name: str, latest: str | None) -> bool:
    """Everything at the top, and the latest checkpoint."""
    folder = name.split("/")
    return len(folder) == 1 or name == LATEST or (folder[0] == "checkpoints" and folder[1] == latest)


def push(folder: Path, repository: str, private: bool) -> str:
    """Send an exported folder to the Hugging Face hub, without what else lies in it; the URL of what was made. The token is the
    hub client's own.

    Raises:
        DataError: the hub refused or did not answer.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        made = api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            allow_patterns=list(EXPORTED),
            commit_message="Export a trained model",
        )
        return str(made.commit_url)
    except Exception as error:  # the hub's client has many
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"the hub did not take {folder} as {repository}: {reason}", "log in with `hf auth login`"
        ) from error
